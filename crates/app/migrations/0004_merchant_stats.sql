-- Sums stop at the largest bigint: one merchant's absurd attempts must not fail the refresh for all.
-- GET /v1/merchants/{id}/stats. Refreshed concurrently by one refresher, hence the unique index.
CREATE MATERIALIZED VIEW merchant_stats AS
SELECT merchant_id, currency, status, count(*) AS payments, least(sum(amount), 9223372036854775807)::bigint AS amount,
       least(sum(captured), 9223372036854775807)::bigint AS captured,
       least(sum(refunded), 9223372036854775807)::bigint AS refunded
  FROM payments
 GROUP BY merchant_id, currency, status;
CREATE UNIQUE INDEX merchant_stats_key ON merchant_stats (merchant_id, currency, status);

CREATE TABLE view_refreshes (
    view         text PRIMARY KEY,
    refreshed_at timestamptz NOT NULL
);
INSERT INTO view_refreshes VALUES ('merchant_stats', now());

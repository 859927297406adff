-- Who may call, and where money stands.

CREATE TABLE merchants (
    id         uuid PRIMARY KEY,
    name       text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now()
);

-- A key is looked up by the SHA-256 of its text; the text itself is never stored.
CREATE TABLE api_keys (
    digest      bytea CHECK (octet_length(digest) = 32),
    merchant_id uuid NOT NULL REFERENCES merchants (id),
    label       text NOT NULL,
    created_at  timestamptz NOT NULL DEFAULT now(),
    revoked_at  timestamptz,
    -- SELECT merchant_id FROM api_keys WHERE digest = $1 AND revoked_at IS NULL, before any other work of a request
    -- whose key is not cached. Covering: rows hardly ever change, so the index alone answers, and no payment writes it.
    PRIMARY KEY (digest) INCLUDE (merchant_id, revoked_at)
);

-- The hot row: what a payment locks and rewrites, and nothing else. Half of each page stays free, and no
-- index touches a column that changes, so that every balance update is a HOT update inside its page.
CREATE TABLE accounts (
    id              uuid PRIMARY KEY,
    merchant_id     uuid     NOT NULL,
    posted          bigint   NOT NULL DEFAULT 0,
    held            bigint   NOT NULL DEFAULT 0,
    overdraft_limit bigint   NOT NULL DEFAULT 0,
    entry_count     bigint   NOT NULL DEFAULT 0,
    currency        smallint NOT NULL,
    status          smallint NOT NULL DEFAULT 1,
    CONSTRAINT accounts_within_limit CHECK (held >= 0 AND posted - held >= -overdraft_limit),
    CONSTRAINT accounts_overdraft_not_negative CHECK (overdraft_limit >= 0)
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_cost_delay = 0);

-- What people read about an account; written once, so its indexes cost a payment nothing.
CREATE TABLE account_profiles (
    account_id  uuid PRIMARY KEY,
    merchant_id uuid NOT NULL,
    kind        text NOT NULL,
    customer    text,
    metadata    text
);
-- GET /v1/accounts: newest first, by keyset.
CREATE INDEX account_profiles_by_merchant ON account_profiles (merchant_id, account_id DESC);
-- GET /v1/accounts?customer=: partial, because most rows of some merchants carry no customer.
CREATE INDEX account_profiles_by_customer ON account_profiles (merchant_id, customer, account_id DESC)
    WHERE customer IS NOT NULL;
-- GET /v1/accounts?kind=
CREATE INDEX account_profiles_by_kind ON account_profiles (merchant_id, kind, account_id DESC);

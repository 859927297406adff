-- One row per effect at an external gateway, committed before the first byte is sent.
CREATE TABLE gateway_operations (
    id                 uuid PRIMARY KEY,
    merchant_id        uuid        NOT NULL,
    payment_id         uuid        NOT NULL,
    kind               smallint    NOT NULL,
    rail               smallint    NOT NULL,
    status             smallint    NOT NULL,
    fence              integer     NOT NULL,
    attempts           integer     NOT NULL DEFAULT 0,
    absences           integer     NOT NULL DEFAULT 0,
    amount             bigint      NOT NULL,
    reference          text        NOT NULL,
    key_digest         uuid,
    parent_transaction text,
    transaction        text,
    card_last_four     text,
    code               text,
    evidence           text,
    created_at         timestamptz NOT NULL,
    sent_at            timestamptz NOT NULL,
    due_at             timestamptz NOT NULL
);
-- What a gateway's webhook or settlement file names us by.
CREATE UNIQUE INDEX gateway_operations_by_reference ON gateway_operations (reference);
-- The operations of one payment, for the timeline.
CREATE INDEX gateway_operations_by_payment ON gateway_operations (payment_id);
-- The resolver's queue: only what is not settled yet, so it stays tiny.
CREATE INDEX gateway_operations_due ON gateway_operations (due_at) WHERE status IN (1, 2, 3);

-- Every decision stands on its payment (verdict and score); the reasons stand here whenever there are any.
CREATE TABLE fraud_decisions (
    payment_id  uuid        PRIMARY KEY,
    merchant_id uuid        NOT NULL,
    verdict     smallint    NOT NULL,
    score       smallint    NOT NULL,
    reasons     text[]      NOT NULL,
    decided_at  timestamptz NOT NULL
);
-- A merchant's latest decisions with reasons, for operators and back-tests.
CREATE INDEX fraud_decisions_by_merchant ON fraud_decisions (merchant_id, payment_id DESC);

-- Entries added at run time; the configuration's blocklist is merged with it.
CREATE TABLE fraud_blocklist (
    entry      text PRIMARY KEY,
    reason     text NOT NULL DEFAULT '',
    expires_at timestamptz,
    created_at timestamptz NOT NULL DEFAULT now()
);

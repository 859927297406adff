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
-- `reference` has 100 random bits, so no two rows share one, and nothing is looked up by it: it has no index.
-- What `paystrata verify` asks for each payment under way, and how a person finds what was sent for one.
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

-- Entries added at run time; the configuration's blocklist is merged with it. An entry that is misspelt would block
-- nobody, so it is refused.
CREATE TABLE fraud_blocklist (
    entry      text PRIMARY KEY
               CONSTRAINT fraud_blocklist_entry CHECK (entry ~ '^(account:acc_[0-9a-f]{32}|bin:[0-9]{6})$'),
    reason     text NOT NULL DEFAULT '',
    expires_at timestamptz,
    created_at timestamptz NOT NULL DEFAULT now()
);

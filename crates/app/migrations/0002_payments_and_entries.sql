-- Payments, their journal, their events, and the keys that make each pay once.
-- The three large tables are partitioned by month on a UUIDv7 whose first 48 bits are the creation
-- millisecond: a look-up by id reads one partition, and created_at needs no column.

CREATE TABLE payments (
    id                  uuid     NOT NULL,
    merchant_id         uuid     NOT NULL,
    from_account        uuid     NOT NULL,
    to_account          uuid     NOT NULL,
    amount              bigint   NOT NULL,
    captured            bigint   NOT NULL DEFAULT 0,
    refunded            bigint   NOT NULL DEFAULT 0,
    refunding           bigint   NOT NULL DEFAULT 0,
    updated_at          timestamptz,  -- NULL until the first change after creation
    version             integer  NOT NULL DEFAULT 1,
    currency            smallint NOT NULL,
    rail                smallint NOT NULL,
    status              smallint NOT NULL,
    failure             smallint NOT NULL DEFAULT 0,
    outcome             smallint NOT NULL DEFAULT 0,
    capture             smallint NOT NULL DEFAULT 0,
    fraud_verdict       smallint NOT NULL DEFAULT 0,
    fraud_score         smallint NOT NULL DEFAULT 0,
    merchant_reference  text,
    gateway_transaction text,
    card_last_four      text,
    metadata            text,
    -- Serves GET /v1/payments/{id} and the list newest first with one index: a caller always is a merchant.
    PRIMARY KEY (merchant_id, id),
    CONSTRAINT payments_amounts CHECK (
        amount > 0 AND captured BETWEEN 0 AND amount AND refunded >= 0 AND refunding >= 0
        AND refunded + refunding <= captured)
) PARTITION BY RANGE (id);

-- GET /v1/payments?status= for every status but succeeded (4): a book payment that succeeds is not in it, and the list
-- of those that did succeed is most of the primary key.
CREATE INDEX payments_by_status ON payments (merchant_id, status, id) WHERE status <> 4;
-- GET /v1/payments?merchant_reference=
CREATE INDEX payments_by_reference ON payments (merchant_id, merchant_reference, id)
    WHERE merchant_reference IS NOT NULL;
-- GET /v1/payments?account=, one index per side: an account has one merchant, so the merchant is not in the key. A card
-- payment (rail 3) shows no sender, so it is not in the first.
CREATE INDEX payments_by_sender ON payments (from_account, id) WHERE rail <> 3;
CREATE INDEX payments_by_receiver ON payments (to_account, id);

-- One row is one double entry: the same amount leaves one account and reaches another, so debits equal
-- credits by construction. The balances after it stand on the row; seq counts an account's entries without gaps.
CREATE TABLE entries (
    id             uuid   NOT NULL,
    payment_id     uuid,
    debit_account  uuid   NOT NULL,
    credit_account uuid   NOT NULL,
    amount         bigint NOT NULL CHECK (amount > 0),
    debit_seq      bigint NOT NULL,
    credit_seq     bigint NOT NULL,
    debit_after    bigint NOT NULL,
    credit_after   bigint NOT NULL
) PARTITION BY RANGE (id);
-- GET /v1/accounts/{id}/entries, both sides; also what `paystrata verify` folds.
CREATE INDEX entries_by_debit ON entries (debit_account, debit_seq);
CREATE INDEX entries_by_credit ON entries (credit_account, credit_seq);

-- One row per state change, in the commit that made it; sequence has no gaps within a payment.
CREATE TABLE outbox (
    payment_id  uuid        NOT NULL,
    sequence    integer     NOT NULL,
    status      smallint    NOT NULL,
    reason      smallint    NOT NULL,
    occurred_at timestamptz NOT NULL,
    evidence    text,
    -- GET /v1/payments/{id}/timeline, and the dispatcher's cursor.
    PRIMARY KEY (payment_id, sequence)
) PARTITION BY RANGE (payment_id);

-- digest is 128 bits of SHA-256 over (merchant, key): fixed width, and no client text in an index.
-- fingerprint holds a keyed hash per request field, so that a mismatch can name its field.
-- answer is the exact body of the first answer; NULL while the work is under way.
CREATE TABLE idempotency_keys (
    digest      uuid        PRIMARY KEY,
    resource_id uuid        NOT NULL,
    created_at  timestamptz NOT NULL,
    status_code smallint    NOT NULL DEFAULT 0,
    fingerprint bytea       NOT NULL,
    answer      bytea
);
-- The retention sweep reads by age; a BRIN index costs the insert nearly nothing.
CREATE INDEX idempotency_keys_by_age ON idempotency_keys USING brin (created_at) WITH (pages_per_range = 32);

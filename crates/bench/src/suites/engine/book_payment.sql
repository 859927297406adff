-- One book payment the way a service without batches makes it: the same rows, columns, checks and durability as the
-- engine, one payment per transaction. What the client would send (key digest, fingerprint, answer) is made here from
-- constants, which is cheaper than sending it: the peer is given every advantage that does not change its work.
-- {MERCHANT}, {FINGERPRINT} and {ANSWER} are filled in with literals of the sizes that the engine writes.
CREATE FUNCTION book_payment(paid_from uuid, paid_to uuid, paid bigint) RETURNS smallint LANGUAGE plpgsql AS $body$
DECLARE
    key_digest uuid := gen_random_uuid();
    -- UUIDv7: 48 bits of milliseconds in front of 74 random bits.
    payment    uuid := overlay(gen_random_uuid()::text
                               PLACING lpad(to_hex((date_part('epoch', clock_timestamp()) * 1000)::bigint), 12, '0') || '-7'
                               FROM 1 FOR 15)::uuid;
    merchant   CONSTANT uuid := '{MERCHANT}';
    account    record;
    sender     record;
    receiver   record;
    found_both integer := 0;
    status     smallint := 4;
    failure    smallint := 0;
BEGIN
    INSERT INTO idempotency_keys (digest, resource_id, status_code, fingerprint, answer, created_at)
    VALUES (key_digest, payment, 201, '{FINGERPRINT}', '{ANSWER}', now())
        ON CONFLICT (digest) DO NOTHING;
    IF NOT FOUND THEN
        RETURN (SELECT k.status_code FROM idempotency_keys k WHERE k.digest = key_digest);
    END IF;
    FOR account IN
        SELECT a.id, a.merchant_id, a.posted, a.held, a.overdraft_limit, a.entry_count, a.currency, a.status
          FROM accounts a WHERE a.id IN (paid_from, paid_to) ORDER BY a.id FOR NO KEY UPDATE
    LOOP
        IF account.merchant_id <> merchant OR account.currency <> 840 OR account.status <> 1 THEN
            RAISE EXCEPTION 'account % takes no part', account.id;
        END IF;
        IF account.id = paid_from THEN sender := account; ELSE receiver := account; END IF;
        found_both := found_both + 1;
    END LOOP;
    IF found_both <> 2 THEN
        RAISE EXCEPTION 'account not found';
    END IF;
    IF sender.posted - sender.held + sender.overdraft_limit < paid THEN
        status := 5;
        failure := 1;
    ELSE
        UPDATE accounts SET posted = sender.posted - paid, entry_count = sender.entry_count + 1 WHERE id = paid_from;
        UPDATE accounts SET posted = receiver.posted + paid, entry_count = receiver.entry_count + 1 WHERE id = paid_to;
        INSERT INTO entries (id, payment_id, debit_account, credit_account, amount, debit_seq, credit_seq,
                             debit_after, credit_after)
        VALUES (payment, payment, paid_from, paid_to, paid, sender.entry_count + 1, receiver.entry_count + 1,
                sender.posted - paid, receiver.posted + paid);
    END IF;
    INSERT INTO payments (id, merchant_id, from_account, to_account, amount, captured, currency, rail, status, failure,
                          capture, fraud_verdict, fraud_score, merchant_reference, card_last_four, metadata)
    VALUES (payment, merchant, paid_from, paid_to, paid, CASE status WHEN 4 THEN paid ELSE 0 END, 840, 1, status,
            failure, 0, 0, 0, NULL, NULL, NULL);
    INSERT INTO outbox (payment_id, sequence, status, reason, evidence, occurred_at)
    VALUES (payment, 1, status, 1, NULL, now());
    RETURN status;
END
$body$;

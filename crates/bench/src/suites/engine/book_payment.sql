-- One book payment the way a service without batches makes it: the same rows, columns, checks and durability as the
-- engine, one payment per transaction. What the client would send (key digest, fingerprint, answer) is made here from
-- constants, which is cheaper than sending it. Locks come with the updates, in sorted order, and after the key: measured
-- faster than SELECT .. FOR UPDATE first. The peer is given every advantage that does not change what is stored.
-- {MERCHANT}, {FINGERPRINT} and {ANSWER} are filled in with literals of the sizes that the engine writes.
CREATE FUNCTION book_payment(paid_from uuid, paid_to uuid, paid bigint) RETURNS smallint LANGUAGE plpgsql AS $body$
DECLARE
    key_digest uuid := gen_random_uuid();
    -- UUIDv7: 48 bits of milliseconds in front of 74 random bits.
    payment    uuid := overlay(gen_random_uuid()::text
                               PLACING lpad(to_hex((date_part('epoch', clock_timestamp()) * 1000)::bigint), 12, '0') || '-7'
                               FROM 1 FOR 15)::uuid;
    merchant   CONSTANT uuid := '{MERCHANT}';
    sender     record;
    receiver   record;
    is_funded  boolean;
    verdict    smallint := 4;
BEGIN
    INSERT INTO idempotency_keys (digest, resource_id, status_code, fingerprint, answer, created_at)
    VALUES (key_digest, payment, 201, '{FINGERPRINT}', '{ANSWER}', now())
        ON CONFLICT (digest) DO NOTHING;
    IF NOT FOUND THEN
        RETURN (SELECT k.status_code FROM idempotency_keys k WHERE k.digest = key_digest);
    END IF;
    -- Two payments in opposite directions would otherwise wait for each other: the lower account is always first.
    IF paid_from > paid_to THEN
        UPDATE accounts a SET posted = a.posted + paid, entry_count = a.entry_count + 1
         WHERE a.id = paid_to AND a.merchant_id = merchant AND a.currency = 840 AND a.status = 1
     RETURNING a.posted, a.entry_count INTO receiver;
        IF NOT FOUND THEN
            RAISE EXCEPTION 'account % takes no part', paid_to;
        END IF;
    END IF;
    UPDATE accounts a SET posted = a.posted - paid, entry_count = a.entry_count + 1
     WHERE a.id = paid_from AND a.merchant_id = merchant AND a.currency = 840 AND a.status = 1
       AND a.posted - a.held + a.overdraft_limit >= paid
 RETURNING a.posted, a.entry_count INTO sender;
    is_funded := FOUND;
    IF is_funded AND paid_from < paid_to THEN
        UPDATE accounts a SET posted = a.posted + paid, entry_count = a.entry_count + 1
         WHERE a.id = paid_to AND a.merchant_id = merchant AND a.currency = 840 AND a.status = 1
     RETURNING a.posted, a.entry_count INTO receiver;
        IF NOT FOUND THEN
            RAISE EXCEPTION 'account % takes no part', paid_to;
        END IF;
    END IF;
    IF is_funded THEN
        INSERT INTO entries (id, payment_id, debit_account, credit_account, amount, debit_seq, credit_seq,
                             debit_after, credit_after)
        VALUES (payment, payment, paid_from, paid_to, paid, sender.entry_count, receiver.entry_count,
                sender.posted, receiver.posted);
    ELSE
        PERFORM FROM accounts a
          WHERE a.id = paid_from AND a.merchant_id = merchant AND a.currency = 840 AND a.status = 1;
        IF NOT FOUND THEN
            RAISE EXCEPTION 'account % takes no part', paid_from;
        END IF;
        IF paid_from > paid_to THEN
            UPDATE accounts a SET posted = a.posted - paid, entry_count = a.entry_count - 1 WHERE a.id = paid_to;
        END IF;
        verdict := 5;
    END IF;
    INSERT INTO payments (id, merchant_id, from_account, to_account, amount, captured, currency, rail, status, failure,
                          capture, fraud_verdict, fraud_score, merchant_reference, card_last_four, metadata)
    VALUES (payment, merchant, paid_from, paid_to, paid, CASE verdict WHEN 4 THEN paid ELSE 0 END, 840, 1, verdict,
            CASE verdict WHEN 4 THEN 0 ELSE 1 END, 0, 0, 0, NULL, NULL, NULL);
    INSERT INTO outbox (payment_id, sequence, status, reason, evidence, occurred_at)
    VALUES (payment, 1, verdict, 1, NULL, now());
    RETURN verdict;
END
$body$;

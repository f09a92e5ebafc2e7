-- Questions to the tables that Sidecar fills (docs/sql.md), for SQLite and PostgreSQL alike: run it after
-- the views in sqlite.sql or postgresql.sql. In "raw" is the event's JSON, whose members differ between Casper 1.x
-- (Version1) and 2.x (Version2).

-- Blocks of the newest eras.
SELECT "era", count(*) AS "blocks", min("height") AS "first", max("height") AS "last"
FROM (
    SELECT "height", CAST(COALESCE("versions" -> 'Version2', "versions" -> 'Version1') -> 'header' ->> 'era_id' AS bigint) AS "era"
    FROM "block"
) AS "block_of_era"
GROUP BY "era" ORDER BY "era" DESC LIMIT 5;

-- Deploys and transactions by account, and how many failed.
SELECT COALESCE("initiator" ->> 'PublicKey', "initiator" ->> 'AccountHash') AS "account",
    "transaction_type_name" AS "type", count(*) AS "processed",
    count(COALESCE("versions" -> 'Version2' ->> 'error_message', "versions" -> 'Version1' -> 'Failure' ->> 'error_message')) AS "failed"
FROM "processed" JOIN "TransactionType" USING ("transaction_type_id")
GROUP BY 1, 2 ORDER BY 3 DESC, 1, 2 LIMIT 10;

-- Why they failed.
SELECT "error", count(*) AS "transactions"
FROM (
    SELECT COALESCE("versions" -> 'Version2' ->> 'error_message', "versions" -> 'Version1' -> 'Failure' ->> 'error_message') AS "error"
    FROM "processed"
) AS "result"
WHERE "error" IS NOT NULL GROUP BY "error" ORDER BY 2 DESC, 1 LIMIT 10;

-- Transactions that were accepted and have come to no end yet, the oldest first.
SELECT "accepted"."transaction_hash", "emitted_timestamp" AS "accepted"
FROM "TransactionAccepted" AS "accepted"
JOIN "event_log" USING ("event_log_id")
LEFT JOIN "TransactionProcessed" AS "processed" USING ("transaction_type_id", "transaction_hash")
LEFT JOIN "TransactionExpired" AS "expired" USING ("transaction_type_id", "transaction_hash")
WHERE "processed"."event_log_id" IS NULL AND "expired"."event_log_id" IS NULL
ORDER BY "accepted"."event_log_id" LIMIT 10;

-- Everything about one transaction: the newest one here.
SELECT "transaction_hash", "event_type_name", "emitted_timestamp"
FROM "transaction_event" JOIN "event_log" USING ("event_log_id") JOIN "event_type" USING ("event_type_id")
WHERE "transaction_hash" = (SELECT "transaction_hash" FROM "TransactionProcessed" ORDER BY "event_log_id" DESC LIMIT 1)
ORDER BY "event_log_id";

-- Validators at fault, by era.
SELECT "era", count(*) AS "validators" FROM "Fault" GROUP BY "era" ORDER BY "era" DESC LIMIT 10;

-- The blocks with the fewest finality signatures.
SELECT "height", count("public_key") AS "signatures"
FROM "BlockAdded" LEFT JOIN "FinalitySignature" USING ("block_hash")
GROUP BY "height" ORDER BY 2, 1 DESC LIMIT 5;

-- How many events of each kind there are, and when the last one was received.
SELECT "event_type_name" AS "kind", count(*) AS "events", max("emitted_timestamp") AS "last"
FROM "event_log" JOIN "event_type" USING ("event_type_id")
GROUP BY 1 ORDER BY 2 DESC, 1;

-- Views that make questions.sql the same for both databases:
--
--   psql -f postgresql.sql -f questions.sql postgresql://USER@HOST/DATABASE
\set QUIET on
CREATE TEMP VIEW "block" AS SELECT "height", "block_hash", "raw"::jsonb -> 'block' AS "versions" FROM "BlockAdded";
CREATE TEMP VIEW "processed" AS SELECT *, "raw"::jsonb -> 'initiator_addr' AS "initiator", "raw"::jsonb -> 'execution_result' AS "versions"
FROM "TransactionProcessed";

-- Views that make questions.sql the same for both databases:
--
--   sqlite3 -readonly -box -init sqlite.sql events.db3 <questions.sql        (SQLite 3.38 or later)
CREATE TEMP VIEW "block" AS SELECT "height", "block_hash", "raw" -> 'block' AS "versions" FROM "BlockAdded";
CREATE TEMP VIEW "processed" AS SELECT *, "raw" -> 'initiator_addr' AS "initiator", "raw" -> 'execution_result' AS "versions"
FROM "TransactionProcessed";

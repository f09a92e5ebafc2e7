-- The reference's tables in PostgreSQL, as it makes them itself (its only migration, version 1).

CREATE TABLE IF NOT EXISTS "event_type" (
    "event_type_id" integer PRIMARY KEY,
    "event_type_name" varchar NOT NULL UNIQUE
);

CREATE TABLE IF NOT EXISTS "TransactionType" (
    "transaction_type_id" integer PRIMARY KEY,
    "transaction_type_name" varchar NOT NULL UNIQUE
);

CREATE TABLE IF NOT EXISTS "event_log" (
    "event_log_id" bigserial PRIMARY KEY,
    "event_type_id" smallint NOT NULL,
    "event_source_address" varchar NOT NULL,
    "event_id" bigint NOT NULL,
    "event_key" varchar NOT NULL,
    "inserted_timestamp" timestamp NOT NULL DEFAULT CURRENT_TIMESTAMP,
    "emitted_timestamp" timestamp NOT NULL DEFAULT CURRENT_TIMESTAMP,
    "api_version" varchar NOT NULL,
    "network_name" varchar NOT NULL,
    CONSTRAINT "UDX_event_log" UNIQUE ("event_source_address", "event_id", "event_type_id", "event_key"),
    CONSTRAINT "FK_event_type_id" FOREIGN KEY ("event_type_id") REFERENCES "event_type" ("event_type_id") ON DELETE RESTRICT ON UPDATE RESTRICT
);

CREATE TABLE IF NOT EXISTS "transaction_event" (
    "event_log_id" bigint NOT NULL,
    "transaction_hash" varchar NOT NULL,
    "transaction_type_id" smallint NOT NULL,
    CONSTRAINT "PDX_TransactionEvent" PRIMARY KEY ("transaction_hash", "transaction_type_id", "event_log_id"),
    CONSTRAINT "FK_event_log_id" FOREIGN KEY ("event_log_id") REFERENCES "event_log" ("event_log_id") ON DELETE RESTRICT ON UPDATE RESTRICT,
    CONSTRAINT "FK_transaction_type_id" FOREIGN KEY ("transaction_type_id") REFERENCES "TransactionType" ("transaction_type_id") ON DELETE RESTRICT ON UPDATE RESTRICT
);

CREATE TABLE IF NOT EXISTS "BlockAdded" (
    "height" bigint NOT NULL UNIQUE,
    "block_hash" varchar NOT NULL,
    "raw" text NOT NULL,
    "event_log_id" bigint NOT NULL,
    CONSTRAINT "PDX_BlockAdded" PRIMARY KEY ("block_hash", "height"),
    CONSTRAINT "FK_event_log_id" FOREIGN KEY ("event_log_id") REFERENCES "event_log" ("event_log_id") ON DELETE RESTRICT ON UPDATE RESTRICT
);

CREATE TABLE IF NOT EXISTS "TransactionAccepted" (
    "transaction_hash" varchar NOT NULL,
    "transaction_type_id" smallint NOT NULL,
    "raw" text NOT NULL,
    "event_log_id" bigint NOT NULL,
    CONSTRAINT "PDX_TransactionAccepted" PRIMARY KEY ("transaction_type_id", "transaction_hash"),
    CONSTRAINT "FK_event_log_id" FOREIGN KEY ("event_log_id") REFERENCES "event_log" ("event_log_id") ON DELETE RESTRICT ON UPDATE RESTRICT,
    CONSTRAINT "FK_transaction_type_id" FOREIGN KEY ("transaction_type_id") REFERENCES "TransactionType" ("transaction_type_id") ON DELETE RESTRICT ON UPDATE RESTRICT
);

CREATE TABLE IF NOT EXISTS "TransactionProcessed" (
    "transaction_hash" varchar NOT NULL,
    "transaction_type_id" smallint NOT NULL,
    "raw" text NOT NULL,
    "event_log_id" bigint NOT NULL,
    CONSTRAINT "PDX_TransactionProcessed" PRIMARY KEY ("transaction_hash", "transaction_type_id"),
    CONSTRAINT "FK_event_log_id" FOREIGN KEY ("event_log_id") REFERENCES "event_log" ("event_log_id") ON DELETE RESTRICT ON UPDATE RESTRICT,
    CONSTRAINT "FK_transaction_type_id" FOREIGN KEY ("transaction_type_id") REFERENCES "TransactionType" ("transaction_type_id") ON DELETE RESTRICT ON UPDATE RESTRICT
);

CREATE TABLE IF NOT EXISTS "TransactionExpired" (
    "transaction_hash" varchar NOT NULL,
    "transaction_type_id" smallint NOT NULL,
    "raw" text NOT NULL,
    "event_log_id" bigint NOT NULL,
    CONSTRAINT "PDX_TransactionExpired" PRIMARY KEY ("transaction_hash"),
    CONSTRAINT "FK_event_log_id" FOREIGN KEY ("event_log_id") REFERENCES "event_log" ("event_log_id") ON DELETE RESTRICT ON UPDATE RESTRICT,
    CONSTRAINT "FK_transaction_type_id" FOREIGN KEY ("transaction_type_id") REFERENCES "TransactionType" ("transaction_type_id") ON DELETE RESTRICT ON UPDATE RESTRICT
);

CREATE TABLE IF NOT EXISTS "Fault" (
    "era" numeric(20, 0) NOT NULL,
    "public_key" varchar NOT NULL,
    "raw" text NOT NULL,
    "event_log_id" bigint NOT NULL,
    CONSTRAINT "PDX_Fault" PRIMARY KEY ("era", "public_key"),
    CONSTRAINT "FK_event_log_id" FOREIGN KEY ("event_log_id") REFERENCES "event_log" ("event_log_id") ON DELETE RESTRICT ON UPDATE RESTRICT
);

CREATE TABLE IF NOT EXISTS "FinalitySignature" (
    "block_hash" varchar NOT NULL,
    "public_key" varchar NOT NULL,
    "raw" text NOT NULL,
    "event_log_id" bigint NOT NULL,
    CONSTRAINT "PDX_FinalitySignature" PRIMARY KEY ("block_hash", "public_key"),
    CONSTRAINT "FK_event_log_id" FOREIGN KEY ("event_log_id") REFERENCES "event_log" ("event_log_id") ON DELETE RESTRICT ON UPDATE RESTRICT
);

CREATE TABLE IF NOT EXISTS "Step" (
    "era" numeric(20, 0) NOT NULL,
    "raw" text NOT NULL,
    "event_log_id" bigint NOT NULL,
    CONSTRAINT "PDX_Step" PRIMARY KEY ("era"),
    CONSTRAINT "FK_event_log_id" FOREIGN KEY ("event_log_id") REFERENCES "event_log" ("event_log_id") ON DELETE RESTRICT ON UPDATE RESTRICT
);

CREATE TABLE IF NOT EXISTS "Shutdown" (
    "event_source_address" text NOT NULL,
    "shutdown_timestamp" timestamp NOT NULL DEFAULT CURRENT_TIMESTAMP,
    "event_log_id" bigint NOT NULL,
    CONSTRAINT "PDX_Shutdown" PRIMARY KEY ("event_source_address", "shutdown_timestamp"),
    CONSTRAINT "FK_event_log_id" FOREIGN KEY ("event_log_id") REFERENCES "event_log" ("event_log_id") ON DELETE RESTRICT ON UPDATE RESTRICT
);


INSERT INTO "event_type" ("event_type_id", "event_type_name") VALUES
    (1, 'BlockAdded'), (2, 'TransactionAccepted'), (3, 'TransactionExpired'), (4, 'TransactionProcessed'), (5, 'Fault'),
    (6, 'FinalitySignature'), (7, 'Step'), (8, 'Shutdown')
ON CONFLICT DO NOTHING;
INSERT INTO "TransactionType" ("transaction_type_id", "transaction_type_name") VALUES (0, 'Deploy'), (1, 'Version1')
ON CONFLICT DO NOTHING;
INSERT INTO "Migration" ("version", "is_success") VALUES (1, true) ON CONFLICT DO NOTHING;

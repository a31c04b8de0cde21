-- The outbox: what a service has decided to send, written in the transaction
-- that decided it. It stands alone, so that any service can have it in its own
-- database with a relay beside it (docs/relay.md).
--
-- A writer gives key, subject, headers and payload; the rest has defaults. It
-- changes its aggregate's row first and inserts the outbox row last, commits
-- with synchronous_commit on, and never uses NOTIFY.

-- One value at a time: cached ranges would let two sessions write a key's
-- messages out of order.
CREATE SEQUENCE outbox_seq AS bigint CACHE 1;

-- Which of the four parts is written now.
CREATE TABLE outbox_ring (
    only_row     boolean  PRIMARY KEY DEFAULT true CHECK (only_row),
    current_slot smallint NOT NULL DEFAULT 0 CHECK (current_slot BETWEEN 0 AND 3)
);
INSERT INTO outbox_ring DEFAULT VALUES;

CREATE FUNCTION outbox_slot() RETURNS smallint LANGUAGE sql STABLE
    AS 'SELECT current_slot FROM outbox_ring';

-- Insert-only: rows are never updated or deleted, so there are no dead tuples,
-- however old the oldest snapshot in the cluster. xid tells which rows became
-- visible between two snapshots; seq is the order within that window.
CREATE TABLE outbox (
    slot       smallint    NOT NULL DEFAULT outbox_slot(),
    seq        bigint      NOT NULL DEFAULT nextval('outbox_seq'),
    xid        xid8        NOT NULL DEFAULT pg_current_xact_id(),
    lane       smallint    NOT NULL DEFAULT 0,
    key        text        NOT NULL,                           -- messages of one key are published in commit order
    msg_id     uuid        NOT NULL DEFAULT gen_random_uuid(), -- Nats-Msg-Id: the same for every publication of this row
    subject    text        NOT NULL,
    headers    json        NOT NULL DEFAULT '{}',              -- an object of strings
    payload    bytea       NOT NULL,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp()
) PARTITION BY LIST (slot);

CREATE TABLE outbox_0 PARTITION OF outbox FOR VALUES IN (0);
CREATE TABLE outbox_1 PARTITION OF outbox FOR VALUES IN (1);
CREATE TABLE outbox_2 PARTITION OF outbox FOR VALUES IN (2);
CREATE TABLE outbox_3 PARTITION OF outbox FOR VALUES IN (3);

-- The relay reads ranges of xid; nothing else is ever looked up.
CREATE INDEX outbox_xid_seq ON outbox (xid, seq);

-- How far each lane has been published: everything visible in snap_from and,
-- of the window up to snap_to (null: none is open), the rows up to pos. The
-- row is updated at every pass, in a page of its own (HOT).
CREATE TABLE outbox_lane (
    lane      smallint    PRIMARY KEY,
    snap_from pg_snapshot NOT NULL,
    snap_to   pg_snapshot,
    pos       bigint      NOT NULL DEFAULT 0
) WITH (fillfactor = 20);
INSERT INTO outbox_lane (lane, snap_from) VALUES (0, pg_current_snapshot());

-- Messages that NATS will never take, and why.
CREATE TABLE outbox_dead (
    seq        bigint      PRIMARY KEY,
    lane       smallint    NOT NULL,
    key        text        NOT NULL,
    msg_id     uuid        NOT NULL,
    subject    text        NOT NULL,
    headers    json        NOT NULL,
    payload    bytea       NOT NULL,
    created_at timestamptz NOT NULL,
    error      text        NOT NULL,
    dead_at    timestamptz NOT NULL DEFAULT clock_timestamp()
);

-- For writers that would rather call than insert; returns the message id.
CREATE FUNCTION outbox_append(key text, subject text, headers json, payload bytea) RETURNS uuid LANGUAGE sql
    AS 'INSERT INTO outbox (key, subject, headers, payload) VALUES ($1, $2, $3, $4) RETURNING msg_id';

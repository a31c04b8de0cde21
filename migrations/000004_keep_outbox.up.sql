-- The ring is turned by the relay: it empties the next of the four parts with
-- TRUNCATE, when all rows in it were published long enough ago, and lets
-- writers go on there.
ALTER TABLE outbox_ring ADD COLUMN switched_at timestamptz NOT NULL DEFAULT clock_timestamp();

-- How far each lane had been published by when: everything visible in
-- snap_from by taken_at. Rows are written every few seconds while something is
-- published, and deleted with the part whose rows they do not cover: what was
-- published since any of them is still kept, and can be published again.
CREATE TABLE outbox_tick (
    lane      smallint    NOT NULL,
    taken_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
    snap_from pg_snapshot NOT NULL,
    PRIMARY KEY (lane, taken_at)
);
INSERT INTO outbox_tick (lane, snap_from) SELECT lane, snap_from FROM outbox_lane;

-- Messages that NATS will take, but not now: no stream takes their subject, or
-- it is full; and the messages of their keys behind them. The relay has passed
-- them in outbox, and tries them again in the order of id.
CREATE TABLE outbox_parked (
    id         bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    seq        bigint      NOT NULL UNIQUE,
    lane       smallint    NOT NULL,
    key        text        NOT NULL,
    msg_id     uuid        NOT NULL,
    subject    text        NOT NULL,
    headers    json        NOT NULL,
    payload    bytea       NOT NULL,
    created_at timestamptz NOT NULL,
    error      text        NOT NULL,
    parked_at  timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE INDEX outbox_parked_key_id ON outbox_parked (key, id); -- whether a key has messages here

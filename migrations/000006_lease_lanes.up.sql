-- Lanes spread an outbox over several relays. A lane is published by the relay
-- that holds its lease, on this database's clock; an epoch counts the leases,
-- so that whoever held an earlier one can settle nothing. Relays that know no
-- leases go on working: they settle by the position alone, as before.
--
-- This may be applied to an outbox that has all of it already.
ALTER TABLE outbox_lane
    ADD COLUMN IF NOT EXISTS owner       text,                      -- the relay that publishes this lane; null: none
    ADD COLUMN IF NOT EXISTS epoch       bigint NOT NULL DEFAULT 0, -- one more with each owner
    ADD COLUMN IF NOT EXISTS lease_until timestamptz;               -- then anybody may take it

-- Relays that wait for a lane: how many there are decides how many lanes the
-- others may keep.
CREATE TABLE IF NOT EXISTS outbox_relay (
    relay      text        PRIMARY KEY,
    seen_until timestamptz NOT NULL
);

-- The lane of a key, of so many. Frozen: another answer for a key would let its
-- next message overtake the one before.
CREATE OR REPLACE FUNCTION outbox_lane_of(key text, lanes int) RETURNS smallint LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
    AS $$ SELECT (get_byte(sha256(convert_to(key, 'UTF8')), 0) % lanes)::smallint $$;

-- With one lane there is nothing to compute, and no row can be in another.
-- (The rows that are there need not be looked at: all have lane 0.)
DO $$ BEGIN
    IF NOT EXISTS (SELECT FROM pg_attribute WHERE attrelid = 'outbox'::regclass AND attname = 'lane' AND attgenerated <> '')
       AND NOT EXISTS (SELECT FROM pg_constraint WHERE conrelid = 'outbox'::regclass AND conname = 'outbox_one_lane') THEN
        ALTER TABLE outbox ADD CONSTRAINT outbox_one_lane CHECK (lane = 0) NOT VALID;
    END IF;
END $$;

-- Gives an outbox another number of lanes. All messages must have been
-- published, since a key may change its lane; writers wait meanwhile, for as
-- long as it takes to write anew what is kept. No writer can choose the lane.
CREATE OR REPLACE FUNCTION outbox_set_lanes(lanes int) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    IF lanes NOT BETWEEN 1 AND 64 THEN
        RAISE EXCEPTION 'an outbox has 1 to 64 lanes, not %', lanes USING ERRCODE = 'invalid_parameter_value';
    END IF;
    LOCK TABLE outbox IN ACCESS EXCLUSIVE MODE;
    PERFORM FROM outbox_lane ORDER BY lane FOR UPDATE;
    IF EXISTS (SELECT FROM outbox o, outbox_lane l WHERE o.lane = l.lane AND NOT pg_visible_in_snapshot(o.xid, l.snap_from)) THEN
        RAISE EXCEPTION 'there are messages that were not published' USING ERRCODE = 'object_not_in_prerequisite_state';
    END IF;
    ALTER TABLE outbox DROP COLUMN lane; -- and its constraint
    IF lanes = 1 THEN
        ALTER TABLE outbox ADD COLUMN lane smallint NOT NULL DEFAULT 0 CONSTRAINT outbox_one_lane CHECK (lane = 0);
    ELSE
        EXECUTE format('ALTER TABLE outbox ADD COLUMN lane smallint NOT NULL GENERATED ALWAYS AS (outbox_lane_of(key, %s)) STORED', lanes);
    END IF;
    DELETE FROM outbox_lane;
    INSERT INTO outbox_lane (lane, snap_from) SELECT n, pg_current_snapshot() FROM generate_series(0, lanes - 1) AS n;
    DELETE FROM outbox_tick;
    INSERT INTO outbox_tick (lane, snap_from) SELECT l.lane, l.snap_from FROM outbox_lane l;
    UPDATE outbox_parked SET lane = outbox_lane_of(key, lanes);
    UPDATE outbox_dead SET lane = outbox_lane_of(key, lanes);
END $$;

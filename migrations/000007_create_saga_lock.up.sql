-- Sagas that hold a lock, or will: one row each from their start to their end.
-- Of the rows of a key that are due one is held, always the one that came
-- first. Whoever changes rows of a key first takes a transaction-level
-- advisory lock on its hash, so each statement sees what those before it made.
CREATE TABLE saga_lock (
    saga_id uuid    PRIMARY KEY,
    seq     bigint  GENERATED ALWAYS AS IDENTITY, -- the order of acceptance
    key     text    NOT NULL,
    due     boolean NOT NULL,               -- false: its start time has not come, so it lets others pass
    held    boolean NOT NULL DEFAULT false
);
CREATE INDEX saga_lock_key ON saga_lock (key, seq);           -- the next of a key
CREATE UNIQUE INDEX saga_lock_held ON saga_lock (key) WHERE held; -- one at a time, whatever programs do

-- A saga that waits for its lock, and has no deadline, waits for no time: the
-- end of the saga before it wakes it. Every row that passed the old check passes this one.
ALTER TABLE saga DROP CONSTRAINT saga_check;
ALTER TABLE saga ADD CONSTRAINT saga_check
    CHECK (status NOT IN ('running', 'compensating') OR wake_at IS NOT NULL OR state ->> 'paused' IS NOT NULL
           OR coalesce(state -> 'lock' ->> 's' = 'waiting', false)) NOT VALID;

-- A paused saga waits for a person and for no time. The state is looked into
-- last, and only if there is no timer: a running saga's update never gets there.
-- Every row that passed the old check passes this one.
ALTER TABLE saga DROP CONSTRAINT saga_check;
ALTER TABLE saga ADD CONSTRAINT saga_check
    CHECK (status NOT IN ('running', 'compensating') OR wake_at IS NOT NULL OR state ->> 'paused' IS NOT NULL) NOT VALID;

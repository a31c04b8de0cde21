ALTER TABLE saga DROP CONSTRAINT saga_check;
ALTER TABLE saga ADD CONSTRAINT saga_check
    CHECK (status NOT IN ('running', 'compensating') OR wake_at IS NOT NULL OR state ->> 'paused' IS NOT NULL) NOT VALID;
DROP TABLE saga_lock;

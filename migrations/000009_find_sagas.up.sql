-- Every open saga is in one of two small tables, whatever the number of those
-- that have ended: saga_timer, because it is to be looked at again, or this one,
-- because it is stuck or waits for no time. Filters on what an open saga does now
-- begin there. It is kept by triggers and not by the programs, so that it is
-- right whichever of them writes; their conditions are false for all but a few
-- transitions, and cost an ordinary one next to nothing.
CREATE TABLE saga_waiting (saga_id uuid PRIMARY KEY);

CREATE FUNCTION saga_waits(status text, wake_at timestamptz) RETURNS boolean LANGUAGE sql IMMUTABLE AS
    $$ SELECT status = 'stuck' OR (wake_at IS NULL AND status IN ('running', 'compensating')) $$;

CREATE FUNCTION saga_keep_waiting() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF saga_waits(NEW.status, NEW.wake_at) THEN
        INSERT INTO saga_waiting (saga_id) VALUES (NEW.id) ON CONFLICT DO NOTHING;
    ELSE
        DELETE FROM saga_waiting WHERE saga_id = NEW.id;
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER saga_waits_from_the_start AFTER INSERT ON saga FOR EACH ROW
    WHEN (saga_waits(NEW.status, NEW.wake_at)) EXECUTE FUNCTION saga_keep_waiting();
CREATE TRIGGER saga_waits AFTER UPDATE OF status, wake_at ON saga FOR EACH ROW
    WHEN (saga_waits(NEW.status, NEW.wake_at) <> saga_waits(OLD.status, OLD.wake_at)) EXECUTE FUNCTION saga_keep_waiting();
INSERT INTO saga_waiting (saga_id) SELECT id FROM saga WHERE saga_waits(status, wake_at);

-- What sagas are found by: their key, their labels, and what their definition
-- takes from the input (`search:`). Written once, with the saga; a saga that has
-- none writes nothing.
CREATE TABLE saga_attribute (
    saga_id uuid NOT NULL,
    name    text NOT NULL, -- key, label.<name> or attr.<path>
    value   text NOT NULL,
    PRIMARY KEY (saga_id, name)
);
CREATE INDEX saga_attribute_value ON saga_attribute (name, value, saga_id); -- newest first, read backwards

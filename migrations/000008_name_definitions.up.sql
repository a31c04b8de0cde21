-- What is said of a definition by its name. Its versions never change; this does.
-- A name without a row, as a program before this left it, has its latest version
-- as the current one.
CREATE TABLE definition_name (
    name              text PRIMARY KEY,
    current_id        int  NOT NULL,  -- the version that new sagas use
    file_id           int,            -- the version that the servers' files held when they were last read; null: never. What was put since
                                      -- stands until the files say something else than they did
    deprecated_at     timestamptz,    -- since when no new sagas are started; null: they are
    deprecated_reason text
);
INSERT INTO definition_name (name, current_id)
SELECT DISTINCT ON (name) name, id FROM definition ORDER BY name, version DESC;

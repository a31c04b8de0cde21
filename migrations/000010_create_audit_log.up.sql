-- What operators asked for and what became of it, written in the transaction
-- that did it. Rows outlive the sagas that they are about. What was refused is
-- not here: it changed nothing.
CREATE TABLE audit_log (
    id             uuid        PRIMARY KEY,      -- UUIDv7: the order of the list
    at             timestamptz NOT NULL,
    actor          text        NOT NULL,
    action         text        NOT NULL,
    reason         text        NOT NULL,         -- empty: none was given
    target         text        NOT NULL,         -- the kind of thing that was acted on: 'saga', …
    target_id      text        NOT NULL,         -- and which
    outcome        text        NOT NULL,         -- 'applied', or 'unchanged': it was so already
    version_before bigint,                       -- of a saga
    version_after  bigint,
    status_before  text,
    status_after   text,
    batch_id       uuid,                         -- the batch operation that it was part of
    details        json                          -- what else was asked for
);
CREATE INDEX audit_log_target_id ON audit_log (target_id, id); -- everything that was done to one thing

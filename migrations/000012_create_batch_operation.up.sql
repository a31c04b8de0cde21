-- Operators' requests to many sagas. Any server works them off, some sagas at a
-- time. Which are done is told by batch_item: nothing else has to be right after
-- a crash.
CREATE TABLE batch_operation (
    id         uuid        PRIMARY KEY,  -- UUIDv7: the order of the list
    action     text        NOT NULL,
    options    json        NOT NULL,     -- what else is asked for
    filter     json,                     -- of the sagas; null: ids says which
    ids        uuid[],
    up_to      uuid        NOT NULL,     -- sagas with later ids are not part of it
    matched    int         NOT NULL,     -- how many sagas it was for when it was asked for
    actor      text        NOT NULL,
    reason     text        NOT NULL,
    status     text        NOT NULL CHECK (status IN ('running', 'completed', 'cancelled')),
    next_at    timestamptz NOT NULL,     -- when its next sagas may be done: what bounds the rate, for all servers together
    created_at timestamptz NOT NULL,
    ended_at   timestamptz
);
CREATE INDEX batch_operation_next_at ON batch_operation (next_at) WHERE status = 'running'; -- whose turn it is

-- What became of each saga, written in the transaction that did it: the key
-- keeps two servers from doing it twice.
CREATE TABLE batch_item (
    batch_id uuid        NOT NULL,
    saga_id  uuid        NOT NULL,
    at       timestamptz NOT NULL,
    outcome  text        NOT NULL CHECK (outcome IN ('applied', 'unchanged', 'refused', 'not-found', 'failed')),
    code     text        NOT NULL DEFAULT '', -- why it was refused
    PRIMARY KEY (batch_id, saga_id)
);

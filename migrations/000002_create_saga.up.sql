-- Definitions are immutable: another content is another version. A running
-- saga stays on the version it began with.
CREATE TABLE definition (
    id         int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, -- what saga rows carry: 4 bytes instead of a name
    name       text        NOT NULL,
    version    int         NOT NULL CHECK (version > 0),
    digest     text        NOT NULL,  -- SHA-256 of source
    source     json        NOT NULL,  -- canonical form
    created_at timestamptz NOT NULL,
    UNIQUE (name, version),
    UNIQUE (name, digest)             -- the same content twice is the same version
);

-- One row per saga, updated in place at every transition. No index stands on a
-- column that a transition changes, and pages keep room for new row versions,
-- so updates are heap-only (HOT). Ids are UUIDv7: the primary key is also the
-- order of creation, which is what lists page by.
-- definition_id has no foreign key: checking it would write a row lock to the
-- one definition row that all starts share.
CREATE TABLE saga (
    id            uuid        PRIMARY KEY,
    definition_id int         NOT NULL,
    version       bigint      NOT NULL CHECK (version > 0), -- bumped by every transition; the ETag
    status        text        NOT NULL CHECK (status IN ('running', 'compensating', 'completed', 'compensated', 'stuck', 'abandoned')),
    state         json        NOT NULL,  -- saga.State
    input         json        NOT NULL,  -- never changes
    command_xid   xid8        NOT NULL,  -- transaction that wrote the latest commands: tells whether the relay has passed them
    wake_at       timestamptz,           -- due time of the earliest row in saga_timer; null: none
    created_at    timestamptz NOT NULL,
    updated_at    timestamptz NOT NULL,
    CHECK (status NOT IN ('running', 'compensating') OR wake_at IS NOT NULL) -- nothing in flight is forgotten
) WITH (fillfactor = 80);

-- Append-only. One row per transition holds the facts that were decided
-- together; folding them all gives saga.state.
CREATE TABLE saga_history (
    saga_id uuid        NOT NULL,
    version bigint      NOT NULL,
    at      timestamptz NOT NULL,
    entries json        NOT NULL,
    PRIMARY KEY (saga_id, version)
);

-- When to look at a saga again. A row says no more than that: what is due is
-- read from the saga's state, so a row too many or too early does no harm.
CREATE TABLE saga_timer (
    due_at   timestamptz NOT NULL,
    saga_id  uuid        NOT NULL,
    withheld boolean     NOT NULL DEFAULT false -- the saga's command was still in the outbox when last looked at
);
CREATE INDEX saga_timer_due_at ON saga_timer (due_at);

-- Replies that changed nothing, kept for people: the first 20 of a saga with
-- their reasons, the rest counted. Outside the saga's row and history, because
-- a reply that changes nothing must not bump the version.
CREATE TABLE saga_stale_reply (
    saga_id uuid  PRIMARY KEY,
    count   int   NOT NULL,
    replies jsonb NOT NULL
);

-- Replies that could not be read, or that answer no saga we know.
CREATE TABLE dead_letter (
    id      bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at      timestamptz NOT NULL,
    subject text        NOT NULL,
    headers json        NOT NULL,
    payload bytea       NOT NULL,
    reason  text        NOT NULL
);

-- One key makes one saga. Keys outlive their sagas.
CREATE TABLE idempotency_key (
    principal   text        NOT NULL,
    route       text        NOT NULL,
    key         text        NOT NULL,
    fingerprint bytea       NOT NULL, -- SHA-256 of the request: the same key with another body is refused
    saga_id     uuid        NOT NULL,
    created_at  timestamptz NOT NULL,
    PRIMARY KEY (principal, route, key)
);

-- The order of an order saga: what is asked for beyond the saga's own input.
-- Its status is not here: it follows from the saga's.
CREATE TABLE orders (
    id          uuid           PRIMARY KEY, -- its saga's
    customer_id text           NOT NULL,
    currency    text           NOT NULL CHECK (currency ~ '^[A-Z]{3}$'),
    total       numeric(19, 4) NOT NULL CHECK (total > 0)
);
CREATE INDEX orders_customer_id ON orders (customer_id, id); -- one customer's orders, newest first

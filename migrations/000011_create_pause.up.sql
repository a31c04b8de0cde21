-- Participants and definitions that operators have paused. A row stays for a
-- while after the pause, until all that was withheld has been sent.
CREATE TABLE pause (
    kind       text        NOT NULL CHECK (kind IN ('participant', 'definition')),
    name       text        NOT NULL,
    paused_at  timestamptz NOT NULL,
    actor      text        NOT NULL,
    reason     text        NOT NULL,
    resumed_at timestamptz,           -- null: it is paused
    PRIMARY KEY (kind, name)
);

-- Sagas of which something is withheld, and by which pause: who is to be
-- looked at when it ends. A row too many does no harm.
CREATE TABLE saga_hold (
    kind    text NOT NULL,
    name    text NOT NULL,
    saga_id uuid NOT NULL,
    PRIMARY KEY (kind, name, saga_id)
);

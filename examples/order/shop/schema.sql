CREATE SCHEMA IF NOT EXISTS inventory;
CREATE SCHEMA IF NOT EXISTS payment;
CREATE SCHEMA IF NOT EXISTS shipping;
CREATE SCHEMA IF NOT EXISTS bank;

-- Updated by every order: pages keep room for new row versions (HOT).
CREATE TABLE IF NOT EXISTS inventory.stock (
    sku      text   PRIMARY KEY,
    on_hand  bigint NOT NULL CHECK (on_hand >= 0),
    reserved bigint NOT NULL DEFAULT 0 CHECK (reserved >= 0),
    sold     bigint NOT NULL DEFAULT 0 CHECK (sold >= 0)
) WITH (fillfactor = 20);
COMMENT ON TABLE inventory.stock IS
    'Pieces by what may be done with them: on_hand excludes what is reserved. Their sum is constant.';

CREATE TABLE IF NOT EXISTS inventory.reservations (
    id         text        PRIMARY KEY,
    order_id   uuid        NOT NULL,
    status     text        NOT NULL CHECK (status IN ('reserved', 'released', 'committed')),
    created_at timestamptz NOT NULL DEFAULT now()
) WITH (fillfactor = 80);
COMMENT ON TABLE inventory.reservations IS
    'What orders have put aside. The id is the effect id of the command that did it.';

-- No foreign keys: the rows are written by one statement group that has both
-- parents locked, and checking would cost more than the insert.
CREATE TABLE IF NOT EXISTS inventory.reservation_items (
    reservation_id text   NOT NULL,
    sku            text   NOT NULL,
    quantity       bigint NOT NULL CHECK (quantity > 0),
    PRIMARY KEY (reservation_id, sku)
);
COMMENT ON TABLE inventory.reservation_items IS 'The pieces of a reservation, one row per sku.';

-- The simulated gateway's own tables: in real life they are at somebody
-- else's, and no transaction spans them and the participant's.
CREATE TABLE IF NOT EXISTS payment.charges (
    effect_id      text           PRIMARY KEY,
    charge_id      uuid           NOT NULL DEFAULT gen_random_uuid(),
    order_id       uuid           NOT NULL,
    amount         numeric(19, 4) NOT NULL CHECK (amount >= 0),
    currency       text           NOT NULL CHECK (currency ~ '^[A-Z]{3}$'),
    customer_id    text           NOT NULL,
    payment_method text           NOT NULL,
    status         text           NOT NULL CHECK (status IN ('charged', 'refunded', 'voided')),
    created_at     timestamptz    NOT NULL DEFAULT now(),
    refunded_at    timestamptz,
    CHECK ((status = 'refunded') = (refunded_at IS NOT NULL)),
    CHECK ((status = 'voided') = (amount = 0))
) WITH (fillfactor = 80);
COMMENT ON TABLE payment.charges IS
    'Money the gateway took, one row per idempotency key. Kept is what is charged; a refunded row was taken and given back; '
    'a voided one was refunded before it came, took nothing (0 XXX) and keeps the charge from coming later.';

CREATE TABLE IF NOT EXISTS payment.attempts (
    effect_id text PRIMARY KEY,
    count     int  NOT NULL
);
COMMENT ON TABLE payment.attempts IS 'How often a charge with the token pm_flaky was tried.';

CREATE TABLE IF NOT EXISTS shipping.shipments (
    effect_id   text        PRIMARY KEY,
    shipment_id uuid        NOT NULL DEFAULT gen_random_uuid(),
    order_id    uuid        NOT NULL,
    status      text        NOT NULL CHECK (status IN ('dispatched')),
    recipient   json        NOT NULL,
    items       json        NOT NULL,
    created_at  timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE shipping.shipments IS 'Parcels that have left, one row per effect.';

CREATE TABLE IF NOT EXISTS bank.accounts (
    id       text    PRIMARY KEY,
    balance  numeric NOT NULL CHECK (balance >= 0 AND scale(balance) <= 4),
    currency text    NOT NULL CHECK (currency ~ '^[A-Z]{3}$')
) WITH (fillfactor = 20);
COMMENT ON TABLE bank.accounts IS
    'What everybody has. The sum of all balances less that of all entries never changes: money that was taken and not yet '
    'given stands in an entry alone.';

CREATE TABLE IF NOT EXISTS bank.entries (
    effect_id   text        PRIMARY KEY,
    transfer_id uuid        NOT NULL,
    account_id  text        NOT NULL,
    amount      numeric     NOT NULL CHECK (amount <> 0),
    created_at  timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE bank.entries IS 'Money taken from an account (below 0) or given to it, one row per effect. What is put back has none.';

INSERT INTO bank.accounts (id, balance, currency) VALUES ('alice', 1000.00, 'EUR'), ('bob', 1000.00, 'EUR'), ('carol', 0.00, 'EUR')
ON CONFLICT DO NOTHING;
INSERT INTO inventory.stock (sku, on_hand) VALUES ('book', 1000000), ('lamp', 10), ('unicorn', 0) ON CONFLICT DO NOTHING;

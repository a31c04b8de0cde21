package shop

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/skald-saga/skald/participant"
)

// newInventory puts goods aside (reserve, undone by release) and hands them
// over (commit). Stock rows are locked last, in the order of their skus, and
// only for the rest of a short transaction: all orders want the same few.
func newInventory(cfg Config) (*participant.Participant, error) {
	p, err := cfg.participant("inventory", 32)
	if err != nil {
		return nil, err
	}
	p.Step("reserve", "release", participant.Handlers{Do: reserve, Undo: release})
	p.Step("commit", "", participant.Handlers{Do: commit})
	return p, nil
}

func reserve(ctx context.Context, tx pgx.Tx, c participant.Command) (any, error) {
	var payload struct {
		Items []item `json:"items"`
	}
	if err := decode(c.Payload, &payload); err != nil {
		return nil, err
	}
	g, err := goodsOf(payload.Items)
	if err != nil {
		return nil, err
	}
	// The rows are locked in sorted order before any is changed; the condition
	// is checked on the newest version.
	const q = `
		WITH wanted AS (SELECT * FROM unnest($3::text[], $4::bigint[]) AS w (sku, quantity)),
		locked AS MATERIALIZED (
			SELECT s.sku, w.quantity FROM inventory.stock s JOIN wanted w USING (sku) ORDER BY s.sku FOR UPDATE OF s),
		taken AS (
			UPDATE inventory.stock s SET on_hand = s.on_hand - l.quantity, reserved = s.reserved + l.quantity
			FROM locked l WHERE s.sku = l.sku AND s.on_hand >= l.quantity RETURNING s.sku, l.quantity),
		reservation AS (INSERT INTO inventory.reservations (id, order_id, status) VALUES ($1, $2, 'reserved')),
		items AS (INSERT INTO inventory.reservation_items (reservation_id, sku, quantity) SELECT $1, sku, quantity FROM taken)
		SELECT (SELECT count(*) FROM locked), ARRAY (SELECT w.sku FROM wanted w WHERE w.sku NOT IN (SELECT sku FROM taken) ORDER BY w.sku)`
	var known int
	var missing []string
	if err := tx.QueryRow(ctx, q, c.EffectID, c.Saga, g.skus, g.quantities).Scan(&known, &missing); err != nil {
		return nil, fmt.Errorf("reserve stock: %w", err)
	}
	switch {
	case known < len(g.skus):
		return nil, participant.Refuse("unknown_sku", "the shop does not have all of these goods")
	case len(missing) > 0:
		return nil, participant.Refuse("out_of_stock", fmt.Sprintf("not enough on hand: %q", missing))
	}
	return map[string]string{"id": c.EffectID}, nil
}

// moveReserved takes what a reservation holds out of stock.reserved. It gives
// the reservation its new status, if it is still open.
const moveReserved = `
	WITH reservation AS (
		UPDATE inventory.reservations SET status = $3 WHERE id = $1 AND order_id = $2 AND status = 'reserved' RETURNING id),
	locked AS MATERIALIZED (
		SELECT s.sku, i.quantity
		FROM reservation r JOIN inventory.reservation_items i ON i.reservation_id = r.id JOIN inventory.stock s USING (sku)
		ORDER BY s.sku FOR UPDATE OF s),
	moved AS (
		UPDATE inventory.stock s SET
			reserved = s.reserved - l.quantity,
			on_hand = s.on_hand + CASE $3 WHEN 'released' THEN l.quantity ELSE 0 END,
			sold = s.sold + CASE $3 WHEN 'committed' THEN l.quantity ELSE 0 END
		FROM locked l WHERE s.sku = l.sku)
	SELECT count(*) FROM reservation`

// settle ends a reservation. If it was not open, it returns the status that it
// has, or "" if there is none.
func settle(ctx context.Context, tx pgx.Tx, id, order, status string) (was string, err error) {
	var moved int
	if err := tx.QueryRow(ctx, moveReserved, id, order, status).Scan(&moved); err != nil {
		return "", fmt.Errorf("settle reservation %s: %w", id, err)
	}
	if moved == 1 {
		return "reserved", nil
	}
	err = tx.QueryRow(ctx, `SELECT status FROM inventory.reservations WHERE id = $1 AND order_id = $2`, id, order).Scan(&was)
	if errors.Is(err, pgx.ErrNoRows) {
		return "", nil
	}
	return was, err
}

func release(ctx context.Context, tx pgx.Tx, c participant.Command) (any, error) {
	was, err := settle(ctx, tx, c.Compensates, c.Saga, "released")
	if err == nil && was == "committed" {
		err = errors.New("the goods have been handed over already") // a person must look at it
	}
	return nil, err
}

func commit(ctx context.Context, tx pgx.Tx, c participant.Command) (any, error) {
	var payload struct {
		Reservation string `json:"reservation"`
	}
	if err := decode(c.Payload, &payload); err != nil {
		return nil, err
	}
	was, err := settle(ctx, tx, payload.Reservation, c.Saga, "committed")
	switch {
	case err != nil:
		return nil, err
	case was == "released":
		return nil, participant.Refuse("reservation_released", "the goods have been put back")
	case was == "":
		return nil, participant.Refuse("unknown_reservation", "this order has no such reservation")
	}
	return map[string]string{"reservation": payload.Reservation}, nil
}

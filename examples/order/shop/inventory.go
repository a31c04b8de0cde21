package shop

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/jackc/pgx/v5"

	"github.com/skald-saga/skald/participant"
)

// newInventory puts goods aside (reserve, undone by release) and hands them
// over (commit). All orders want the same few rows of stock: what is waiting
// is done together, with one lock on each row, taken in the order of the skus.
func newInventory(cfg Config) (*participant.Participant, error) {
	p, err := cfg.participant("inventory", 256)
	if err != nil {
		return nil, err
	}
	p.Bulk("reserve", "release", participant.Bulk{Do: reserve, Undo: release})
	p.Bulk("commit", "", participant.Bulk{Do: commit})
	return p, nil
}

func reserve(ctx context.Context, tx pgx.Tx, cs []participant.Command) ([]participant.Result, error) {
	results := make([]participant.Result, len(cs))
	wanted := make([]goods, len(cs))
	skus := map[string]bool{}
	for i, c := range cs {
		var payload struct {
			Items []item `json:"items"`
		}
		if results[i].Err = decode(c.Payload, &payload); results[i].Err == nil {
			wanted[i], results[i].Err = goodsOf(payload.Items)
		}
		for _, sku := range wanted[i].skus {
			skus[sku] = true
		}
	}
	onHand, err := lockStock(ctx, tx, slices.Sorted(maps.Keys(skus)))
	if err != nil {
		return nil, err
	}
	var r reservations
	for i, c := range cs {
		if results[i].Err == nil {
			results[i].Err = take(onHand, wanted[i])
		}
		if results[i].Err == nil {
			r.add(c, wanted[i])
			results[i].Value = map[string]string{"id": c.EffectID}
		}
	}
	return results, r.store(ctx, tx)
}

// lockStock locks rows of stock and returns what is on hand of each.
func lockStock(ctx context.Context, tx pgx.Tx, skus []string) (map[string]int64, error) {
	onHand := make(map[string]int64, len(skus))
	if len(skus) == 0 {
		return onHand, nil
	}
	rows, err := tx.Query(ctx, `SELECT sku, on_hand FROM inventory.stock WHERE sku = ANY ($1) ORDER BY sku FOR UPDATE`, skus)
	if err != nil {
		return nil, fmt.Errorf("lock stock: %w", err)
	}
	var sku string
	var n int64
	if _, err := pgx.ForEachRow(rows, []any{&sku, &n}, func() error { onHand[sku] = n; return nil }); err != nil {
		return nil, fmt.Errorf("lock stock: %w", err)
	}
	return onHand, nil
}

// take takes all of the goods from what is on hand, or none.
func take(onHand map[string]int64, g goods) error {
	for i, sku := range g.skus {
		n, known := onHand[sku]
		if !known {
			return participant.Refuse("unknown_sku", fmt.Sprintf("the shop does not have %q", sku))
		}
		if n < g.quantities[i] {
			return participant.Refuse("out_of_stock", fmt.Sprintf("there are not %d of %q", g.quantities[i], sku))
		}
	}
	for i, sku := range g.skus {
		onHand[sku] -= g.quantities[i]
	}
	return nil
}

// reservations are rows to be stored together.
type reservations struct {
	ids, orders []string
	itemIDs     []string
	skus        []string
	quantities  []int64
}

func (r *reservations) add(c participant.Command, g goods) {
	r.ids, r.orders = append(r.ids, c.EffectID), append(r.orders, c.Saga)
	for range g.skus {
		r.itemIDs = append(r.itemIDs, c.EffectID)
	}
	r.skus, r.quantities = append(r.skus, g.skus...), append(r.quantities, g.quantities...)
}

// store writes reservations and moves their goods from on_hand to reserved.
func (r *reservations) store(ctx context.Context, tx pgx.Tx) error {
	if len(r.ids) == 0 {
		return nil
	}
	var b pgx.Batch
	b.Queue(`INSERT INTO inventory.reservations (id, order_id, status) SELECT id, order_id, 'reserved' FROM unnest($1::text[], $2::uuid[]) AS u (id, order_id)`,
		r.ids, r.orders)
	b.Queue(`INSERT INTO inventory.reservation_items (reservation_id, sku, quantity) SELECT * FROM unnest($1::text[], $2::text[], $3::bigint[])`,
		r.itemIDs, r.skus, r.quantities)
	b.Queue(`
		UPDATE inventory.stock s SET on_hand = s.on_hand - u.quantity, reserved = s.reserved + u.quantity
		FROM (SELECT sku, sum(quantity)::bigint AS quantity FROM unnest($1::text[], $2::bigint[]) AS i (sku, quantity) GROUP BY sku) u
		WHERE s.sku = u.sku`, r.skus, r.quantities)
	if err := tx.SendBatch(ctx, &b).Close(); err != nil {
		return fmt.Errorf("store reservations: %w", err)
	}
	return nil
}

// settle ends those of the reservations that are open, and returns their ids.
// Their goods leave stock.reserved. Rows of stock are locked in sorted order
// before any is changed.
func settle(ctx context.Context, tx pgx.Tx, ids, orders []string, status string) (settled []string, err error) {
	const q = `
		WITH wanted AS (SELECT DISTINCT * FROM unnest($1::text[], $2::uuid[]) AS w (id, order_id)),
		reservation AS (
			UPDATE inventory.reservations r SET status = $3 FROM wanted w
			WHERE r.id = w.id AND r.order_id = w.order_id AND r.status = 'reserved' RETURNING r.id),
		amount AS (
			SELECT i.sku, sum(i.quantity)::bigint AS quantity
			FROM reservation r JOIN inventory.reservation_items i ON i.reservation_id = r.id GROUP BY i.sku),
		locked AS MATERIALIZED (
			SELECT s.sku, a.quantity FROM amount a JOIN inventory.stock s USING (sku) ORDER BY s.sku FOR UPDATE OF s),
		moved AS (
			UPDATE inventory.stock s SET
				reserved = s.reserved - l.quantity,
				on_hand = s.on_hand + CASE $3 WHEN 'released' THEN l.quantity ELSE 0 END,
				sold = s.sold + CASE $3 WHEN 'committed' THEN l.quantity ELSE 0 END
			FROM locked l WHERE s.sku = l.sku)
		SELECT coalesce(array_agg(id), '{}') FROM reservation`
	if err := tx.QueryRow(ctx, q, ids, orders, status).Scan(&settled); err != nil {
		return nil, fmt.Errorf("settle reservations: %w", err)
	}
	return settled, nil
}

// statusOf is the status of an order's reservation, or "" if it has no such.
func statusOf(ctx context.Context, tx pgx.Tx, id, order string) (status string, err error) {
	err = tx.QueryRow(ctx, `SELECT status FROM inventory.reservations WHERE id = $1 AND order_id = $2`, id, order).Scan(&status)
	if errors.Is(err, pgx.ErrNoRows) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("read reservation: %w", err)
	}
	return status, nil
}

func release(ctx context.Context, tx pgx.Tx, c participant.Command) (any, error) {
	settled, err := settle(ctx, tx, []string{c.Compensates}, []string{c.Saga}, "released")
	if err != nil || len(settled) > 0 {
		return nil, err
	}
	status, err := statusOf(ctx, tx, c.Compensates, c.Saga)
	if err == nil && status == "committed" {
		err = errors.New("the goods have been handed over already") // a person must look at it
	}
	return nil, err
}

func commit(ctx context.Context, tx pgx.Tx, cs []participant.Command) ([]participant.Result, error) {
	results := make([]participant.Result, len(cs))
	ids, orders := make([]string, len(cs)), make([]string, len(cs))
	for i, c := range cs {
		var payload struct {
			Reservation string `json:"reservation"`
		}
		results[i].Err = decode(c.Payload, &payload)
		ids[i], orders[i] = payload.Reservation, c.Saga
	}
	settled, err := settle(ctx, tx, ids, orders, "committed")
	if err != nil {
		return nil, err
	}
	for i := range cs {
		if results[i].Err == nil && !slices.Contains(settled, ids[i]) {
			if results[i].Err, err = notSettled(ctx, tx, ids[i], orders[i]); err != nil {
				return nil, err
			}
		}
		if results[i].Err == nil {
			results[i].Value = map[string]string{"reservation": ids[i]}
		}
	}
	return results, nil
}

// notSettled says why a reservation could not be committed: nil if it is.
func notSettled(ctx context.Context, tx pgx.Tx, id, order string) (refusal, err error) {
	status, err := statusOf(ctx, tx, id, order)
	switch {
	case err != nil:
		return nil, err
	case status == "released":
		return participant.Refuse("reservation_released", "the goods have been put back"), nil
	case status == "":
		return participant.Refuse("unknown_reservation", "this order has no such reservation"), nil
	}
	return nil, nil
}

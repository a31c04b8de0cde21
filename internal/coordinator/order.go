package coordinator

import (
	"context"
	"fmt"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/skald-saga/skald/internal/saga"
)

// Order is what is stored of an order beyond its saga's input. It is written
// in the transaction that starts the saga and has its id.
type Order struct {
	CustomerID string
	Currency   string // ISO 4217
	Total      string // decimal
}

func queueOrders(b *pgx.Batch, jobs []*startJob) {
	const q = `
		INSERT INTO orders (id, customer_id, currency, total)
		SELECT u.id, u.customer_id, u.currency, u.total::numeric FROM unnest($1::uuid[], $2::text[], $3::text[], $4::text[])
		  AS u (id, customer_id, currency, total)`
	var (
		ids                          uuids
		customers, currencies, total []string
	)
	for _, job := range jobs {
		if o := job.order; o != nil {
			ids, customers = append(ids, job.row.id), append(customers, o.CustomerID)
			currencies, total = append(currencies, o.Currency), append(total, o.Total)
		}
	}
	if len(ids) > 0 {
		b.Queue(q, ids, customers, currencies, total)
	}
}

// GetOrder returns the saga that carries the order, or [ErrNotFound] if there
// is no such order.
func (c *Coordinator) GetOrder(ctx context.Context, id uuid.UUID) (Saga, error) {
	sagas, err := c.views(ctx, `SELECT `+viewColumns+` FROM orders o JOIN saga s ON s.id = o.id WHERE o.id = $1`, id)
	if err != nil {
		return Saga{}, fmt.Errorf("read order %s: %w", id, err)
	}
	if len(sagas) == 0 {
		return Saga{}, ErrNotFound
	}
	return sagas[0], nil
}

// OrderFilter selects orders; zero values select all.
type OrderFilter struct {
	CustomerID string
	Statuses   []saga.Status
	Before     uuid.UUID // only older ones
	Limit      int
}

// ListOrders returns the sagas that carry orders, newest first, and whether
// there are more.
func (c *Coordinator) ListOrders(ctx context.Context, f OrderFilter) ([]Saga, bool, error) {
	q := query{text: `SELECT ` + viewColumns + ` FROM orders o JOIN saga s ON s.id = o.id WHERE true`}
	if f.CustomerID != "" {
		q.and(`o.customer_id = `, f.CustomerID)
	}
	if len(f.Statuses) > 0 {
		q.and(`s.status = ANY `, f.Statuses)
	}
	if f.Before != uuid.Nil {
		q.and(`o.id < `, f.Before)
	}
	q.text += fmt.Sprintf(` ORDER BY o.id DESC LIMIT %d`, f.Limit+1)
	sagas, err := c.views(ctx, q.text, q.args...)
	if err != nil {
		return nil, false, fmt.Errorf("list orders: %w", err)
	}
	if len(sagas) > f.Limit {
		return sagas[:f.Limit], true, nil
	}
	return sagas, false, nil
}

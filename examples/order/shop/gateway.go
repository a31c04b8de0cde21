package shop

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/skald-saga/skald/participant"
)

// PaymentMethods are the tokens that the simulated gateway knows, with what
// each does.
var PaymentMethods = map[string]string{
	"pm_ok":       "works",
	"pm_declined": "is declined for good",
	"pm_flaky":    "fails twice, then works",
	"pm_slow":     "works, after 3 s",
	"pm_silent":   "takes the money and never answers",
}

const (
	slowness = 3 * time.Second // how long pm_slow takes
	patience = 4 * time.Second // how long we wait for an answer that does not come
)

// gateway simulates a payment provider. Like a real one it is idempotent by
// key: what was done under a key is not done again. It commits by itself,
// whatever becomes of the caller.
type gateway struct {
	pool *pgxpool.Pool
}

// charge takes money once per key and returns the charge's id.
func (g gateway) charge(ctx context.Context, c charge) (string, error) {
	switch c.Method {
	case "pm_ok":
		return g.take(ctx, c)
	case "pm_declined":
		return "", participant.Refuse("card_declined", "the card was declined")
	case "pm_flaky":
		n, err := g.countAttempt(ctx, c.key)
		if err != nil {
			return "", err
		}
		if n <= 2 {
			return "", errors.New("the gateway is out of order")
		}
		return g.take(ctx, c)
	case "pm_slow":
		if err := wait(ctx, slowness); err != nil {
			return "", err
		}
		return g.take(ctx, c)
	case "pm_silent":
		if _, err := g.take(ctx, c); err != nil {
			return "", err
		}
		return "", errors.Join(errors.New("the gateway does not answer"), wait(ctx, patience))
	}
	return "", participant.Refuse("unknown_payment_method", "the gateway does not know this payment method")
}

func (g gateway) take(ctx context.Context, c charge) (string, error) {
	const insert = `
		INSERT INTO payment.charges (effect_id, order_id, amount, currency, customer_id, payment_method, status)
		VALUES ($1, $2, $3::text::numeric, $4, $5, $6, 'charged') ON CONFLICT (effect_id) DO NOTHING RETURNING charge_id`
	var id string
	err := g.pool.QueryRow(ctx, insert, c.key, c.order, c.Amount, c.Currency, c.Customer, c.Method).Scan(&id)
	if err == nil || !errors.Is(err, pgx.ErrNoRows) {
		return id, wrap("charge", err)
	}
	var status string
	err = g.pool.QueryRow(ctx, `SELECT charge_id, status FROM payment.charges WHERE effect_id = $1`, c.key).Scan(&id, &status)
	switch {
	case err != nil:
		return "", wrap("look up charge", err)
	case status == "charged":
		return id, nil
	}
	return "", participant.Refuse("charge_"+status, "the charge was called off")
}

// refund gives the money of a charge back, once. If there is no such charge
// yet, it never will be: the request may still be on its way.
func (g gateway) refund(ctx context.Context, key, order string) error {
	const q = `
		INSERT INTO payment.charges AS c (effect_id, order_id, amount, currency, customer_id, payment_method, status)
		VALUES ($1, $2, 0, 'XXX', '', '', 'voided')
		ON CONFLICT (effect_id) DO UPDATE SET status = 'refunded', refunded_at = now() WHERE c.status = 'charged'`
	_, err := g.pool.Exec(ctx, q, key, order)
	return wrap("refund", err)
}

func (g gateway) countAttempt(ctx context.Context, key string) (n int, err error) {
	const q = `
		INSERT INTO payment.attempts AS a (effect_id, count) VALUES ($1, 1)
		ON CONFLICT (effect_id) DO UPDATE SET count = a.count + 1 RETURNING count`
	err = g.pool.QueryRow(ctx, q, key).Scan(&n)
	return n, wrap("count attempt", err)
}

func wrap(what string, err error) error {
	if err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	return nil
}

func wait(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}

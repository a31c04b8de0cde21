package coordinator

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/skald-saga/skald/internal/saga"
	"github.com/skald-saga/skald/internal/wire"
)

// restartRoute is where the idempotency keys of restarts are kept: the old
// saga's id is the key, so a saga is taken up once, under any concurrency, and
// the new one is found by it.
const restartRoute = "restart"

// RestartRequest says what differs from the start of the old saga.
type RestartRequest struct {
	Version int // of the definition; 0: the current one
	Trace   wire.Trace
}

// Restart starts a saga that was undone, or abandoned, again: a new saga with
// the same input, new effects and, if the old one carried an order, another
// order like it. A saga is restarted once; asking again finds the same new one.
// It returns [ErrNotFound], [ErrPrecondition], an [*IllegalError] or what
// [Coordinator.Start] returns.
func (c *Coordinator) Restart(ctx context.Context, id uuid.UUID, op Operation, req RestartRequest) (Started, error) {
	old, err := c.Get(ctx, id)
	switch {
	case err != nil:
		return Started{}, err
	case op.IfVersion != 0 && op.IfVersion != old.Version:
		return Started{}, ErrPrecondition
	case old.Status != saga.Compensated && old.Status != saga.Abandoned:
		return Started{}, &IllegalError{Action: "restart", Code: saga.IllegalNotUndone, Status: old.Status, Allowed: old.Actions}
	}
	order, err := c.orderOf(ctx, id)
	if err != nil {
		return Started{}, fmt.Errorf("restart saga %s: %w", id, err)
	}
	entry, err := op.audit("restart", TargetSaga, id.String(), nil, c.now())
	if err != nil {
		return Started{}, err
	}
	entry.Before = SagaPoint{old.Version, old.Status}
	entry.After = entry.Before // it stays as it is
	started, err := c.Start(ctx, StartRequest{
		Definition: old.Definition, Version: req.Version, Input: old.Input, Order: order, Trace: req.Trace, Name: old.Key, Labels: old.Labels,
		Key:   &IdempotencyKey{Route: restartRoute, Key: id.String()},
		again: saga.Origin{Saga: id.String(), Reason: op.Reason, Actor: op.Actor}, audit: entry,
	})
	if err == nil && started.Replayed {
		entry.Outcome = Unchanged
		entry.restartedAs(started.Saga.ID)
		err = c.note(ctx, entry)
	}
	if err != nil {
		return Started{}, fmt.Errorf("restart saga %s: %w", id, err)
	}
	return started, nil
}

func (e *AuditEntry) restartedAs(id uuid.UUID) {
	e.Details = json.RawMessage(`{"restarted_as":"` + id.String() + `"}`)
}

// orderOf is the order that a saga carries; nil if it carries none.
func (c *Coordinator) orderOf(ctx context.Context, id uuid.UUID) (*Order, error) {
	done, err := c.reading(ctx)
	if err != nil {
		return nil, err
	}
	defer done()
	var o Order
	err = c.Pool.QueryRow(ctx, `SELECT customer_id, currency, total::text FROM orders WHERE id = $1`, id).Scan(&o.CustomerID, &o.Currency, &o.Total)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return nil, nil //nolint:nilnil // most sagas carry no order
	case err != nil:
		return nil, fmt.Errorf("read its order: %w", err)
	}
	return &o, nil
}

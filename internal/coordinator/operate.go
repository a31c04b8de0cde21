package coordinator

import (
	"context"
	"fmt"

	"github.com/google/uuid"

	"github.com/skald-saga/skald/internal/saga"
)

// Cancel asks that a saga be undone. Asking again while it is being undone is
// not an error. It returns the saga as it then stands, or [ErrNotFound],
// [ErrPrecondition] or an [*IllegalError].
func (c *Coordinator) Cancel(ctx context.Context, id uuid.UUID, op Operation) (Saga, error) {
	_, err := c.change(ctx, lockByID, []any{uuids{id}}, func(tx *transaction) error {
		r := tx.rows[id]
		if r == nil {
			return ErrNotFound
		}
		if op.IfVersion != 0 && op.IfVersion != r.version {
			return ErrPrecondition
		}
		d, err := tx.apply(r, saga.Cancel{Reason: op.Reason, Actor: op.Actor})
		if err != nil {
			return err
		}
		if d.Illegal != "" {
			return &IllegalError{Action: "cancel", Code: d.Illegal, Status: r.state.Status, Allowed: saga.Allowed(r.def.Definition, r.state)}
		}
		return nil
	})
	if err != nil {
		return Saga{}, fmt.Errorf("cancel saga %s: %w", id, err)
	}
	return c.Get(ctx, id)
}

package coordinator

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/google/uuid"

	"github.com/skald-saga/skald/internal/saga"
)

// Operation is an operator's request: who asks, why, and of which version.
type Operation struct {
	Actor     string
	Reason    string
	IfVersion int64 // 0: any
}

// All verbs return the saga as it then stands, or [ErrNotFound],
// [ErrPrecondition] or an [*IllegalError]. What was asked for is in the saga's
// history, with actor and reason.

// Cancel asks that a saga be undone. Asking again while it is being undone is
// not an error.
func (c *Coordinator) Cancel(ctx context.Context, id uuid.UUID, op Operation) (Saga, error) {
	return c.operate(ctx, id, "cancel", op, "", saga.Cancel{Reason: op.Reason, Actor: op.Actor})
}

// Retry tries at once what waits for its next attempt or is stuck: one step,
// or all if step is empty. A payload replaces the one that could not be made.
func (c *Coordinator) Retry(ctx context.Context, id uuid.UUID, op Operation, step string, payload json.RawMessage) (Saga, error) {
	return c.operate(ctx, id, "retry", op, step, saga.TryNow{Step: step, Payload: payload, Reason: op.Reason, Actor: op.Actor})
}

// Resolution says how a stuck operation of a step has ended.
type Resolution struct {
	Step    string
	Phase   saga.Phase
	Outcome saga.Resolution
	Result  json.RawMessage // of an action that succeeded
}

// Resolve takes an operator's word for how a stuck operation has ended. The
// same word again is not an error.
func (c *Coordinator) Resolve(ctx context.Context, id uuid.UUID, op Operation, r Resolution) (Saga, error) {
	return c.operate(ctx, id, "resolve", op, r.Step, saga.Resolve{
		Step: r.Step, Phase: r.Phase, Outcome: r.Outcome, Result: r.Result, Reason: op.Reason, Actor: op.Actor,
	})
}

// Abandon ends a saga as it stands: no command follows, and replies change
// nothing. Asking again is not an error.
func (c *Coordinator) Abandon(ctx context.Context, id uuid.UUID, op Operation) (Saga, error) {
	return c.operate(ctx, id, "abandon", op, "", saga.Abandon{Reason: op.Reason, Actor: op.Actor})
}

// Pause stops a saga from issuing commands until [Coordinator.Resume]. Asking
// again is not an error.
func (c *Coordinator) Pause(ctx context.Context, id uuid.UUID, op Operation) (Saga, error) {
	return c.operate(ctx, id, "pause", op, "", saga.Pause{Reason: op.Reason, Actor: op.Actor})
}

// Resume ends a pause. To resume what is not paused is not an error.
func (c *Coordinator) Resume(ctx context.Context, id uuid.UUID, op Operation) (Saga, error) {
	return c.operate(ctx, id, "resume", op, "", saga.Resume{Reason: op.Reason, Actor: op.Actor})
}

// operate gives an operator's request to a saga. A step that it names must be
// one of the saga's.
func (c *Coordinator) operate(ctx context.Context, id uuid.UUID, action string, op Operation, step string, ev saga.Event) (Saga, error) {
	if err := c.request(ctx, id, action, op, step, ev); err != nil {
		return Saga{}, fmt.Errorf("%s saga %s: %w", action, id, err)
	}
	return c.Get(ctx, id)
}

func (c *Coordinator) request(ctx context.Context, id uuid.UUID, action string, op Operation, step string, ev saga.Event) error {
	_, err := c.change(ctx, lockByID(ctx, uuids{id}), func(tx *transaction) error {
		r := tx.rows[id]
		if r == nil {
			return ErrNotFound
		}
		if op.IfVersion != 0 && op.IfVersion != r.version {
			return ErrPrecondition
		}
		if step != "" && r.broken == nil && r.def.Index(step) < 0 {
			return ErrNotFound
		}
		d, err := tx.apply(r, ev)
		if err != nil {
			return err
		}
		if d.Illegal != "" {
			return &IllegalError{
				Action: action, Code: d.Illegal, Status: r.state.Status, Allowed: saga.Allowed(r.def.Definition, r.state),
				Resolutions: resolutions(r.def.Definition, r.state, r.def.Index(step)),
			}
		}
		return nil
	})
	return err
}

// resolutions are what may be said of a step now, by the names that the API
// has for them.
func resolutions(def *saga.Definition, s saga.State, step int) []string {
	if step < 0 {
		return nil
	}
	var names []string
	for _, r := range saga.Resolutions(def, s, step) {
		names = append(names, string(r))
	}
	return names
}

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

	batch uuid.UUID // the batch operation that it is part of; nil: none
}

// All verbs return the saga as it then stands, or [ErrNotFound],
// [ErrPrecondition] or an [*IllegalError]. What was asked for is in the saga's
// history and in the audit log, with actor and reason.

// Cancel asks that a saga be undone. Asking again while it is being undone is
// not an error.
func (c *Coordinator) Cancel(ctx context.Context, id uuid.UUID, op Operation) (Saga, error) {
	return c.operate(ctx, id, op, request{action: "cancel", event: saga.Cancel{Reason: op.Reason, Actor: op.Actor}})
}

// Retry tries at once what waits for its next attempt or is stuck: one step,
// or all if step is empty. A payload replaces the one that could not be made.
func (c *Coordinator) Retry(ctx context.Context, id uuid.UUID, op Operation, step string, payload json.RawMessage) (Saga, error) {
	return c.operate(ctx, id, op, request{
		action: "retry", step: step, details: retryDetails{Step: step, Payload: payload},
		event: saga.TryNow{Step: step, Payload: payload, Reason: op.Reason, Actor: op.Actor},
	})
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
	return c.operate(ctx, id, op, request{
		action: "resolve", step: r.Step, details: resolveDetails(r),
		event: saga.Resolve{Step: r.Step, Phase: r.Phase, Outcome: r.Outcome, Result: r.Result, Reason: op.Reason, Actor: op.Actor},
	})
}

// Abandon ends a saga as it stands: no command follows, and replies change
// nothing. Asking again is not an error.
func (c *Coordinator) Abandon(ctx context.Context, id uuid.UUID, op Operation) (Saga, error) {
	return c.operate(ctx, id, op, request{action: "abandon", event: saga.Abandon{Reason: op.Reason, Actor: op.Actor}})
}

// Pause stops a saga from issuing commands until [Coordinator.Resume]. Asking
// again is not an error.
func (c *Coordinator) Pause(ctx context.Context, id uuid.UUID, op Operation) (Saga, error) {
	return c.operate(ctx, id, op, request{action: "pause", event: saga.Pause{Reason: op.Reason, Actor: op.Actor}})
}

// Resume ends a pause. To resume what is not paused is not an error.
func (c *Coordinator) Resume(ctx context.Context, id uuid.UUID, op Operation) (Saga, error) {
	return c.operate(ctx, id, op, request{action: "resume", event: saga.Resume{Reason: op.Reason, Actor: op.Actor}})
}

// What the audit log keeps of a request beside its name and reason.
type (
	retryDetails struct {
		Step    string          `json:"step,omitempty"`
		Payload json.RawMessage `json:"payload,omitempty"`
	}
	resolveDetails struct {
		Step    string          `json:"step"`
		Phase   saga.Phase      `json:"phase"`
		Outcome saga.Resolution `json:"outcome"`
		Result  json.RawMessage `json:"result,omitempty"`
	}
)

// request is what an operator asks of one saga.
type request struct {
	action  string
	step    string // that it names; empty: none. It must be one of the saga's
	details any    // for the audit log; nil: nothing
	event   saga.Event
}

// operate gives an operator's request to a saga.
func (c *Coordinator) operate(ctx context.Context, id uuid.UUID, op Operation, req request) (Saga, error) {
	if err := c.request(ctx, id, op, req); err != nil {
		return Saga{}, fmt.Errorf("%s saga %s: %w", req.action, id, err)
	}
	return c.Get(ctx, id)
}

func (c *Coordinator) request(ctx context.Context, id uuid.UUID, op Operation, req request) error {
	_, err := c.change(ctx, lockByID(ctx, uuids{id}), func(tx *transaction) error {
		_, err := tx.operate(tx.rows[id], op, req)
		return err
	})
	return err
}

// operate applies an operator's request, and notes it for the audit log. It
// says what became of it: [Applied] or [Unchanged].
func (tx *transaction) operate(r *row, op Operation, req request) (outcome string, err error) {
	switch {
	case r == nil:
		return "", ErrNotFound
	case op.IfVersion != 0 && op.IfVersion != r.version:
		return "", ErrPrecondition
	case req.step != "" && r.broken == nil && r.def.Index(req.step) < 0:
		return "", ErrNotFound
	}
	entry, err := op.audit(req.action, TargetSaga, r.id.String(), req.details, tx.now)
	if err != nil {
		return "", err
	}
	entry.Before = SagaPoint{r.version, r.state.Status}
	d, err := tx.apply(r, req.event)
	switch {
	case err != nil:
		return "", err
	case d.Illegal != "":
		return "", &IllegalError{
			Action: req.action, Code: d.Illegal, Status: r.state.Status, Allowed: saga.Allowed(r.def.Definition, r.state),
			Resolutions: resolutions(r.def.Definition, r.state, r.def.Index(req.step)),
		}
	case d.Ignored != "":
		entry.Outcome = Unchanged
	}
	entry.After = SagaPoint{r.version, r.state.Status}
	r.beside = append(r.beside, entry)
	return entry.Outcome, nil
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

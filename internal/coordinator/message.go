package coordinator

import (
	"fmt"

	"github.com/skald-saga/skald/internal/outbox"
	"github.com/skald-saga/skald/internal/saga"
	"github.com/skald-saga/skald/internal/wire"
)

// command is the outbox row of a command.
func (c *Coordinator) command(r *row, cmd saga.Command) (outbox.Message, error) {
	key := r.id.String()
	w := wire.Command{
		EffectID:      wire.EffectID{Saga: key, Step: cmd.Step, Phase: wire.Phase(cmd.Phase), Generation: cmd.Generation},
		Saga:          key,
		Attempt:       cmd.Attempt,
		ReplyTo:       wire.ReplySubject(c.Prefix, 0),
		EffectTime:    cmd.EffectTime,
		NotAfter:      cmd.NotAfter,
		ActionOutcome: wire.Outcome(cmd.ActionOutcome),
		Trace:         r.trace,
	}
	if cmd.Phase == saga.Compensation {
		w.Compensates = &wire.EffectID{Saga: key, Step: cmd.Step, Phase: wire.Phase(saga.Action), Generation: cmd.ActionGen}
	}
	return c.message(key, wire.CommandSubject(c.Prefix, cmd.Participant, cmd.Operation), w.AppendHeaders(nil), cmd.Payload)
}

// event is the outbox row that tells of a fact. The row holds the state that
// the fact has led to.
func (c *Coordinator) event(r *row, e saga.Entry) (outbox.Message, error) {
	key := r.id.String()
	w := wire.Event{
		Saga: key, Definition: r.def.Name, DefinitionVersion: r.def.Version, Version: r.version,
		Type: string(e.Type), Status: string(r.state.Status), At: e.At,
		Phase: wire.Phase(e.Phase), Generation: e.Generation, Attempt: e.Attempt,
		Reason: e.Reason, Actor: e.Actor, Trace: r.trace,
	}
	failure := e.Error
	if e.Step > 0 {
		w.Step = r.def.Steps[e.Step-1].Name
	} else if failure == nil && (e.Type == saga.EndedCompensated || e.Type == saga.EndedAbandoned || e.Type == saga.BecameStuck) {
		failure = r.state.Failure()
	}
	if failure != nil {
		w.Error = &wire.Problem{Code: failure.Code, Message: failure.Message, Step: failure.Step}
	}
	return c.message(key, wire.EventSubject(c.Prefix, w.Definition, w.Type), w.AppendHeaders(nil), w.Payload())
}

func (c *Coordinator) message(key, subject string, headers, payload []byte) (outbox.Message, error) {
	id, err := c.newID()
	if err != nil {
		return outbox.Message{}, fmt.Errorf("make message id: %w", err)
	}
	return outbox.Message{Key: key, MsgID: id, Subject: subject, Headers: headers, Payload: payload}, nil
}

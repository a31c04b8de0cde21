package participant

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/skald-saga/skald/internal/wire"
)

// do executes an action whose effect is in the participant's database.
func (p *Participant) do(ctx context.Context, c wire.Command, h func(context.Context, pgx.Tx, Command) (any, error)) wire.Reply {
	return p.inTx(ctx, c, func(in inbox) (wire.Reply, error) {
		first, err := in.claim(ctx, c.EffectID, succeeded)
		if err != nil {
			return wire.Reply{}, err
		}
		if !first {
			return in.repeat(ctx, c)
		}
		if err := p.mayStart(c); err != nil {
			return wire.Reply{}, err
		}
		reply, err := attempt(ctx, in.tx, c, h)
		if err != nil {
			return wire.Reply{}, err
		}
		return reply, in.set(ctx, c.EffectID, string(reply.Outcome), encode(reply))
	})
}

// attempt runs the handler in a savepoint, so that a refusal takes back what it
// wrote but not the memory of the refusal. A transient error takes back all.
func attempt(ctx context.Context, tx pgx.Tx, c wire.Command, h func(context.Context, pgx.Tx, Command) (any, error)) (wire.Reply, error) {
	var result any
	err := pgx.BeginFunc(ctx, tx, func(sp pgx.Tx) error {
		var err error
		result, err = h(ctx, sp, command(c))
		return err
	})
	reply := answer(c, result, err)
	if reply.Outcome == wire.Retry {
		if err == nil {
			err = errors.New(reply.Failure.Message)
		}
		return wire.Reply{}, err
	}
	return reply, nil
}

// repeat answers a duplicate from memory.
func (in inbox) repeat(ctx context.Context, c wire.Command) (wire.Reply, error) {
	status, s, err := in.read(ctx, c.EffectID)
	switch {
	case err != nil:
		return wire.Reply{}, err
	case status == succeeded, status == failed:
		return s.reply(c), nil
	case status == void, status == undoing:
		return refused(c, CodeCompensated, "the action came after its compensation"), nil
	}
	return wire.Reply{}, fmt.Errorf("the effect is %s", status)
}

// undo executes a compensation in the participant's database.
func (p *Participant) undo(ctx context.Context, c wire.Command, h func(context.Context, pgx.Tx, Command) (any, error)) wire.Reply {
	return p.inTx(ctx, c, func(in inbox) (wire.Reply, error) {
		first, err := in.claim(ctx, c.EffectID, succeeded)
		if err != nil {
			return wire.Reply{}, err
		}
		if !first {
			return in.repeat(ctx, c)
		}
		if err := p.mayStart(c); err != nil {
			return wire.Reply{}, err
		}
		needed, err := in.prevent(ctx, c)
		if err != nil {
			return wire.Reply{}, err
		}
		reply := answer(c, nil, nil)
		if needed {
			if reply, err = attempt(ctx, in.tx, c, h); err != nil {
				return wire.Reply{}, err
			}
			if reply.Outcome == wire.Failed { // a compensation cannot be refused
				return wire.Reply{}, errors.New(reply.Failure.Code + ": " + reply.Failure.Message)
			}
		}
		return reply, in.set(ctx, c.EffectID, succeeded, encode(reply))
	})
}

// prevent sees to it that the action to undo cannot happen any more, and
// reports whether there may be an effect to undo. An action whose transaction
// is still open is waited for. One that is known to have succeeded is undone
// whatever the inbox says: the inbox may have forgotten it.
func (in inbox) prevent(ctx context.Context, c wire.Command) (needed bool, err error) {
	first, err := in.claim(ctx, *c.Compensates, void)
	if err != nil {
		return false, err
	}
	if c.ActionOutcome == wire.Succeeded {
		return true, nil
	}
	if first {
		return false, nil // null compensation: it never began
	}
	status, _, err := in.read(ctx, *c.Compensates)
	return status == succeeded || status == started || status == undoing, err
}

// begin claims an effect elsewhere, or finds out that it was begun before and
// may go on: then the reply has no outcome. Otherwise it is the stored one.
func (p *Participant) begin(ctx context.Context, in inbox, c wire.Command) (wire.Reply, error) {
	first, err := in.claim(ctx, c.EffectID, started)
	if err != nil {
		return wire.Reply{}, err
	}
	if first {
		return wire.Reply{}, p.mayStart(c)
	}
	status, _, err := in.read(ctx, c.EffectID)
	if err != nil || status == started {
		return wire.Reply{}, err
	}
	return in.repeat(ctx, c)
}

// doExternal executes an action whose effect is elsewhere: the start is
// committed first, so that a compensation knows that there may be an effect.
func (p *Participant) doExternal(ctx context.Context, c wire.Command, h func(context.Context, Command) (any, error)) wire.Reply {
	reply := p.inTx(ctx, c, func(in inbox) (wire.Reply, error) { return p.begin(ctx, in, c) })
	if reply.Outcome != "" {
		return reply
	}
	result, err := h(ctx, command(c))
	reply = answer(c, result, err)
	if reply.Outcome == wire.Retry {
		return reply
	}
	ctx, cancel := toRecord(ctx)
	defer cancel()
	return p.inTx(ctx, c, func(in inbox) (wire.Reply, error) {
		status, _, err := in.read(ctx, c.EffectID)
		if err != nil {
			return wire.Reply{}, err
		}
		if status != started { // compensated meanwhile, or another delivery was faster
			return in.repeat(ctx, c)
		}
		return reply, in.set(ctx, c.EffectID, string(reply.Outcome), encode(reply))
	})
}

// undoExternal executes a compensation elsewhere. From the first commit on the
// action's success cannot be recorded any more.
func (p *Participant) undoExternal(ctx context.Context, c wire.Command, h func(context.Context, Command) (any, error)) wire.Reply {
	reply := p.inTx(ctx, c, func(in inbox) (wire.Reply, error) {
		if reply, err := p.begin(ctx, in, c); err != nil || reply.Outcome != "" {
			return reply, err
		}
		needed, err := in.prevent(ctx, c)
		switch {
		case err != nil:
			return wire.Reply{}, err
		case needed:
			return wire.Reply{}, in.set(ctx, *c.Compensates, undoing, "null")
		}
		reply := answer(c, nil, nil)
		return reply, in.set(ctx, c.EffectID, succeeded, encode(reply))
	})
	if reply.Outcome != "" {
		return reply
	}
	result, err := h(ctx, command(c))
	reply = answer(c, result, err)
	switch reply.Outcome {
	case wire.Retry:
		return reply
	case wire.Failed: // a compensation cannot be refused
		return transient(c, "transient", errors.New(reply.Failure.Code+": "+reply.Failure.Message))
	}
	ctx, cancel := toRecord(ctx)
	defer cancel()
	return p.inTx(ctx, c, func(in inbox) (wire.Reply, error) {
		return reply, in.set(ctx, c.EffectID, succeeded, encode(reply))
	})
}

// toRecord gives what has happened elsewhere a little time to be written down,
// also when the handler has used up its own.
func toRecord(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
}

package participant

import (
	"context"
	"errors"
	"runtime/debug"
	"strings"
	"sync"

	"github.com/skald-saga/skald/internal/wire"
)

// execute runs the operation within its time. A panic is a transient error: the
// transaction is rolled back.
func (p *Participant) execute(ctx context.Context, c wire.Command) (reply wire.Reply) {
	op, known := p.operations[lastToken(c.Subject)]
	switch {
	case !known:
		return transient(c, "unknown_operation", errors.New("this participant has no such operation"))
	case op.phase != "" && op.phase != c.EffectID.Phase:
		return transient(c, "wrong_phase", errors.New("this operation is for the other phase of a step"))
	case !p.atWork.enter(c.EffectID):
		return wire.Reply{EffectID: c.EffectID, Attempt: c.Attempt, Outcome: wire.InProgress}
	}
	defer p.atWork.leave(c.EffectID)
	ctx, cancel := context.WithTimeout(ctx, p.cfg.HandlerTimeout)
	defer cancel()
	defer func() {
		if v := recover(); v != nil {
			p.metrics.panics.Inc()
			p.cfg.Log.ErrorContext(ctx, "handler panicked", "saga_id", c.Saga, "effect_id", c.EffectID.String(), "panic", v, "stack", string(debug.Stack()))
			reply = notDone(c, errPanic)
		}
	}()
	return op.run(ctx, c)
}

// atWork are the effects that this process is busy with.
type atWork struct {
	mu      sync.Mutex
	effects map[wire.EffectID]struct{}
}

func (a *atWork) enter(e wire.EffectID) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.effects == nil {
		a.effects = map[wire.EffectID]struct{}{}
	}
	if _, busy := a.effects[e]; busy {
		return false
	}
	a.effects[e] = struct{}{}
	return true
}

func (a *atWork) leave(e wire.EffectID) {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.effects, e)
}

func lastToken(subject string) string { return subject[strings.LastIndexByte(subject, '.')+1:] }

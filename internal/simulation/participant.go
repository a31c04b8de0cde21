package simulation

import (
	"fmt"

	"github.com/skald-saga/skald/internal/saga"
)

// Effect is what an effect id names.
type Effect struct {
	Saga, Step string
	Phase      saga.Phase
	Generation int
}

// Command is what a participant needs to know of a command.
type Command struct {
	Effect      Effect
	Compensates int          // generation of the action that a compensation undoes
	Action      saga.Outcome // what a compensation is told of it
	NoAction    bool         // there is only the compensation
}

// Participants keep the rules of docs/protocol.md: an effect happens once, a
// refusal is remembered, what was compensated before it came never happens.
// Each call of [Participants.Execute] is one transaction.
type Participants struct {
	inbox   map[Effect]saga.Outcome // Succeeded, Failed, or void
	effects map[step]int

	Forgetful bool // a planted bug: the inbox is not asked
	Trusting  bool // another: an action may come after its compensation
}

type step struct{ saga, step string }

// void is the action that never happened, and never may.
const void saga.Outcome = "void"

// Execute does what a command asks for, at most once; decide says how an effect
// that is not known yet turns out. An error is a broken promise.
func (p *Participants) Execute(c Command, decide func() saga.Outcome) (saga.Outcome, error) {
	if p.inbox == nil {
		p.inbox, p.effects = map[Effect]saga.Outcome{}, map[step]int{}
	}
	outcome, known := p.inbox[c.Effect]
	if p.Forgetful {
		known = false
	}
	at := step{c.Effect.Saga, c.Effect.Step}
	switch {
	case known && outcome == void: // a late action: its compensation came first
		return saga.Failed, nil
	case known:
		return outcome, nil
	case c.Effect.Phase == saga.Action:
		if outcome = decide(); outcome == saga.Succeeded {
			p.effects[at]++
		}
	default:
		if outcome = decide(); outcome == saga.Failed { // not a word for compensations
			outcome = saga.Retry
		}
		if outcome != saga.Succeeded {
			break
		}
		if err := p.undo(c); err != nil {
			return outcome, err
		}
	}
	if outcome == saga.Succeeded || outcome == saga.Failed {
		p.inbox[c.Effect] = outcome
	}
	if n := p.effects[at]; n < 0 || n > 1 {
		return outcome, fmt.Errorf("the effect of step %s is there %d times", at.step, n)
	}
	return outcome, nil
}

// undo takes an effect back, or keeps it from ever happening.
func (p *Participants) undo(c Command) error {
	if c.NoAction {
		return nil
	}
	action := Effect{c.Effect.Saga, c.Effect.Step, saga.Action, c.Compensates}
	outcome, known := p.inbox[action]
	if c.Action == saga.Succeeded && outcome != saga.Succeeded {
		return fmt.Errorf("the compensation of step %s is told that its action succeeded; it is %q", action.Step, outcome)
	}
	switch {
	case !known && p.Trusting:
	case !known:
		p.inbox[action] = void
	case outcome == saga.Succeeded:
		p.effects[step{action.Saga, action.Step}]--
	}
	return nil
}

// There says how many times the effect of a step is there.
func (p *Participants) There(sagaID, name string) int { return p.effects[step{sagaID, name}] }

// Known reports whether the outcome of an effect stands.
func (p *Participants) Known(e Effect) bool { _, known := p.inbox[e]; return known }

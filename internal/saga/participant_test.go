package saga_test

import (
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/skald-saga/skald/internal/saga"
	"github.com/skald-saga/skald/internal/simulation"
)

// world is a saga among participants that keep the rules of docs/protocol.md,
// and a network that keeps none: what was sent may arrive at any time, any
// number of times, in any order.
type world struct {
	*laws
	participants simulation.Participants
	replies      []saga.Reply // every one ever given
}

func newWorld(l *life) *world { return &world{laws: newLaws(l)} }

// deliver hands a command to its participant and keeps the reply. A new effect
// is decided by decide. (P5)
func (w *world) deliver(c saga.Command, decide func() saga.Outcome) saga.Reply {
	w.t.Helper()
	outcome, err := w.participants.Execute(simulation.Command{
		Effect: simulation.Effect{Saga: id, Step: c.Step, Phase: c.Phase, Generation: c.Generation}, Compensates: c.ActionGen, Action: c.ActionOutcome,
		NoAction: w.def.Steps[w.def.Index(c.Step)].Action == "",
	}, decide)
	if err != nil {
		w.t.Fatal(err)
	}
	r := answer(c, outcome)
	w.replies = append(w.replies, r)
	return r
}

// there says how many times the effect of a step is there.
func (w *world) there(step string) int { return w.participants.There(id, step) }

// checkEffects compares what is there with how the saga ended. (P3)
func (w *world) checkEffects() {
	w.t.Helper()
	for i, step := range w.def.Steps {
		there := w.there(step.Name)
		if step.Kind == saga.Notification || step.Action == "" {
			continue
		}
		switch {
		case w.state.Status == saga.Completed && w.state.Steps[i].Status != saga.StepSkipped && there != 1,
			w.state.Status == saga.Completed && w.state.Steps[i].Status == saga.StepSkipped && there != 0,
			w.state.Status == saga.Compensated && there != 0 && (step.Compensation != "" || step.Kind != saga.Compensatable):
			w.t.Fatalf("the saga is %s, and the effect of %s is there %d times", w.picture(), step.Name, there)
		}
	}
}

// calm is what the world comes to: participants are well, everything that was
// ever sent arrives, and the saga ends within a bounded number of events. What
// arrives after its end changes nothing.
func (w *world) calm() {
	w.t.Helper()
	healthy := func() saga.Outcome { return saga.Succeeded }
	for range 8*len(w.def.Steps) + 8 {
		if w.state.Status.Ended() {
			break
		}
		switch {
		case w.state.WaitsFor() == saga.ForLock:
			w.give(saga.Granted{})
		case w.state.Paused():
			w.give(saga.Resume{})
		case w.deliverOne(healthy):
		case !w.state.WakeAt().IsZero():
			w.wake()
		default: // refused as often as its budget allows: a person lets it be tried again
			w.give(saga.TryNow{})
		}
		w.check()
	}
	if !w.state.Status.Ended() {
		w.t.Fatalf("the saga does not end although everybody is well: %s", w.picture())
	}
	w.checkEffects()
	for _, c := range w.sent { // all that was still on its way
		w.give(w.deliver(c, healthy))
	}
	for _, r := range w.replies {
		w.give(r)
	}
	w.check()
	w.checkEffects()
}

// deliverOne delivers commands, the latest first, until a reply counts.
func (w *world) deliverOne(decide func() saga.Outcome) bool {
	w.t.Helper()
	for i := len(w.sent) - 1; i >= 0; i-- {
		if w.give(w.deliver(w.sent[i], decide)).Ignored == "" {
			return true
		}
	}
	return false
}

// P3, P5: among participants that keep their inbox, a saga ends with all of
// its effects or with none of them, whatever is lost, repeated or reordered,
// whatever they answer, whenever it is cancelled or its steps are tried at once.
func TestASagaEndsWithAllOfItsEffectsOrNone(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		def, input := randomSaga(t, false)
		w := newWorld(beginWith(t, def, input, randomOpening(t)))
		decide := func() saga.Outcome {
			return draw(t, "decision", saga.Succeeded, saga.Succeeded, saga.Succeeded, saga.Failed, saga.Retry, saga.InProgress)
		}
		for range rapid.IntRange(0, 60).Draw(t, "events") {
			w.now = w.now.Add(randomPause(t, w.life))
			switch what := rapid.IntRange(0, 23).Draw(t, "event"); {
			case what == 23:
				w.give(saga.Granted{})
			case what == 0:
				w.give(saga.Cancel{})
			case what == 20:
				w.give(saga.TryNow{})
			case what == 21:
				w.give(saga.Pause{})
			case what == 22:
				w.give(saga.Resume{})
			case what < 6:
				w.give(saga.Tick{Publication: draw(t, "publication", saga.Published, saga.Published, saga.Withheld, saga.JustPublished)})
			case what < 9 && len(w.replies) > 0: // late, or again
				w.give(rapid.SampledFrom(w.replies).Draw(t, "reply"))
			case len(w.sent) > 0:
				r := w.deliver(rapid.SampledFrom(w.sent).Draw(t, "command"), decide)
				if rapid.IntRange(0, 3).Draw(t, "lost or late") > 0 {
					w.give(r)
				}
			}
			w.check()
		}
		w.calm()
	})
}

// The commonest accident of all, step by step: nobody hears of anything, so
// everything is tried as often as it may be and then undone unseen.
func TestASagaThatHearsNothingUndoesWhatMayHaveHappened(t *testing.T) {
	t.Parallel()
	for _, arrive := range []bool{true, false} {
		w := newWorld(begin(t, linear, `{}`))
		healthy := func() saga.Outcome { return saga.Succeeded }
		for w.state.Status == saga.Running {
			if arrive {
				w.deliver(w.sent[len(w.sent)-1], healthy) // and the reply is lost
			}
			w.wake()
		}
		w.want("compensating: a=compensating b=pending c=pending")
		if got := w.there("a"); (got == 1) != arrive {
			t.Errorf("the effect of a is there %d times", got)
		}
		w.calm() // the compensation arrives first, then the actions that were on their way
		w.want("compensated: a=compensated b=pending c=pending")
		if w.now.Sub(t0) > time.Minute {
			t.Errorf("that took %s", w.now.Sub(t0))
		}
	}
}

package saga_test

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/skald-saga/skald/internal/saga"
)

func TestASagaBeginsWithItsFirstSteps(t *testing.T) {
	t.Parallel()
	l := begin(t, pivoted, `{"x":1}`)
	l.want("running: a=running v=pending r=pending")
	if !l.state.DeadlineAt.Equal(t0.Add(10 * time.Minute)) {
		t.Errorf("deadline %v", l.state.DeadlineAt)
	}
	want := []saga.Command{{
		Step: "a", Participant: "p", Operation: "do-a", Phase: saga.Action, Generation: 1, Attempt: 1,
		EffectTime: t0, NotAfter: t0.Add(10 * time.Minute), Payload: json.RawMessage(`{"input":{"x":1},"steps":{}}`),
	}}
	if diff := cmp.Diff(want, l.sent); diff != "" {
		t.Errorf("commands: -want +got\n%s", diff)
	}
	l = begin(t, parallel, `{}`)
	l.want("running: a=running b=running c=pending")
	l.wantSent("do-a#1", "do-b#1")
}

func TestASagaGoesForwardStepByStep(t *testing.T) {
	t.Parallel()
	l := begin(t, linear, `{}`)
	l.act("a", saga.Succeeded)
	l.want("running: a=succeeded b=running c=pending")
	l.wantSent("do-b#1")
	l.act("b", saga.Succeeded)
	l.wantSent("do-c#1")
	d := l.act("c", saga.Succeeded)
	l.want("completed: a=succeeded b=succeeded c=succeeded")
	l.wantSent()
	if diff := cmp.Diff([]saga.EntryType{saga.StepSuccess, saga.EndedCompleted}, types(d)); diff != "" {
		t.Errorf("history of the end: -want +got\n%s", diff)
	}
}

func TestParallelStepsAreWaitedForWhereTheyMeet(t *testing.T) {
	t.Parallel()
	for _, order := range [][2]string{{"a", "b"}, {"b", "a"}} {
		l := begin(t, parallel, `{}`)
		l.act(order[0], saga.Succeeded)
		l.wantSent()
		l.act(order[1], saga.Succeeded)
		l.wantSent("do-c#1")
	}
}

// The latest time is the saga's deadline, not the attempt's: a late success
// still counts, and what waited for the relay must not come in vain (2.1 (6)).
func TestOnlyActionsThatCanBeUndoneHaveALatestTime(t *testing.T) {
	t.Parallel()
	l := begin(t, pivoted, `{}`)
	l.act("a", saga.Succeeded)
	l.act("v", saga.Succeeded)
	l.act("r", saga.Succeeded)
	undone := begin(t, pivoted, `{}`)
	undone.act("a", saga.Succeeded)
	undone.act("v", saga.Failed)
	for _, c := range append(l.sent, undone.sent...) {
		if compensatable := c.Phase == saga.Action && c.Operation != "do-v" && c.Operation != "do-r"; compensatable != !c.NotAfter.IsZero() {
			t.Errorf("%s has the latest time %v", c.Operation, c.NotAfter)
		}
	}
}

func TestCancelUndoesWhatWasDone(t *testing.T) {
	t.Parallel()
	l := begin(t, linear, `{}`)
	l.act("a", saga.Succeeded)
	l.act("b", saga.Succeeded)
	l.act("c", saga.Retry) // waits to be tried again: given up at once
	d := l.give(saga.Cancel{Reason: "changed my mind", Actor: "alice"})
	l.want("compensating: a=succeeded b=succeeded c=compensating")
	l.wantSent("undo-c#1")
	if e := d.History[0]; e.Type != saga.CancelAsked || e.Reason != "changed my mind" || e.Actor != "alice" {
		t.Errorf("history begins with %+v", e)
	}
	if c := l.state.Cause; c == nil || c.Code != "cancelled" || c.Message != "changed my mind" {
		t.Errorf("cause %+v", c)
	}
	l.undo("c", saga.Succeeded)
	l.undo("b", saga.Succeeded)
	l.undo("a", saga.Succeeded)
	l.want("compensated: a=compensated b=compensated c=compensated")
}

// Whatever the moment, cancelling is legal or not by one rule, and asking
// again adds nothing.
func TestCancelAtEveryMoment(t *testing.T) {
	t.Parallel()
	const undoing = "the saga is already being undone"
	for name, c := range map[string]struct {
		at               func(l *life)
		ignored, illegal string
		after            string
		again            string // why the second request is ignored
	}{
		"the first step is in flight": {
			at: func(*life) {}, after: "compensating: a=running v=pending r=pending", again: undoing,
		},
		"the first step waits for its next attempt": {
			at: func(l *life) { l.act("a", saga.Retry) }, after: "compensating: a=compensating v=pending r=pending", again: undoing,
		},
		"the pivot is in flight": {
			at:    func(l *life) { l.act("a", saga.Succeeded) },
			after: "running: a=succeeded v=running r=pending", again: "cancellation has been requested already",
		},
		"the pivot waits for its next attempt": {
			at:    func(l *life) { l.act("a", saga.Succeeded); l.act("v", saga.Retry) },
			after: "running: a=succeeded v=running r=pending", again: "cancellation has been requested already",
		},
		"the pivot is stuck": {
			at:      func(l *life) { l.act("a", saga.Succeeded); l.exhaust("v") },
			illegal: saga.IllegalPivotStuck, after: "stuck: a=succeeded v=stuck r=pending",
		},
		"the pivot has failed": {
			at:      func(l *life) { l.act("a", saga.Succeeded); l.act("v", saga.Failed) },
			ignored: undoing, after: "compensating: a=compensating v=failed r=pending", again: undoing,
		},
		"the pivot has succeeded": {
			at:      func(l *life) { l.act("a", saga.Succeeded); l.act("v", saga.Succeeded) },
			illegal: saga.IllegalPastPivot, after: "running: a=succeeded v=succeeded r=running",
		},
		"the step after the pivot is stuck": {
			at: func(l *life) {
				l.act("a", saga.Succeeded)
				l.act("v", saga.Succeeded)
				l.exhaust("r")
			},
			illegal: saga.IllegalPastPivot, after: "stuck: a=succeeded v=succeeded r=stuck",
		},
		"the saga is being undone": {
			at:      func(l *life) { l.act("a", saga.Succeeded); l.act("v", saga.Failed) },
			ignored: undoing, after: "compensating: a=compensating v=failed r=pending", again: undoing,
		},
		"the saga is undone": {
			at:      func(l *life) { l.act("a", saga.Failed) },
			illegal: saga.IllegalEnded, after: "compensated: a=failed v=pending r=pending",
		},
		"the saga is completed": {
			at: func(l *life) {
				l.act("a", saga.Succeeded)
				l.act("v", saga.Succeeded)
				l.act("r", saga.Succeeded)
			},
			illegal: saga.IllegalEnded, after: "completed: a=succeeded v=succeeded r=succeeded",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := begin(t, pivoted, `{}`)
			c.at(l)
			allowed := slices.Contains(saga.Allowed(l.def, l.state), "cancel")
			d := l.give(saga.Cancel{Reason: "no", Actor: "alice"})
			if d.Ignored != c.ignored || d.Illegal != c.illegal {
				t.Errorf("ignored %q, illegal %q, want %q, %q", d.Ignored, d.Illegal, c.ignored, c.illegal)
			}
			if allowed != (d.Illegal == "" && d.Ignored == "") {
				t.Errorf("Allowed said %v, Advance said %q, %q", allowed, d.Illegal, d.Ignored)
			}
			l.want(c.after)
			if c.illegal == "" {
				wantStale(t, l.give(saga.Cancel{}), c.again)
			}
		})
	}
}

func TestAStateOfAnotherDefinitionIsAnError(t *testing.T) {
	t.Parallel()
	l := begin(t, linear, `{}`)
	other := parse(t, "name: other\nsteps: [{name: a, participant: p, action: do, compensation: none}]")
	for _, ev := range []saga.Event{saga.Tick{}, saga.Cancel{}, answer(l.sent[0], saga.Succeeded)} {
		if _, err := saga.Advance(other, l.state, ev, t0); err == nil || !strings.Contains(err.Error(), "3 steps") {
			t.Errorf("%T: %v", ev, err)
		}
	}
	if _, err := saga.Advance(l.def, l.state, nil, t0); err == nil {
		t.Error("no event was taken for one")
	}
}

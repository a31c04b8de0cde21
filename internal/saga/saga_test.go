package saga_test

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/skald-saga/skald/internal/saga"
)

func TestOnlyThreeStatusesAreEnds(t *testing.T) {
	t.Parallel()
	for status, ended := range map[saga.Status]bool{
		saga.Running: false, saga.Compensating: false, saga.Stuck: false,
		saga.Completed: true, saga.Compensated: true, saga.Abandoned: true,
	} {
		if status.Ended() != ended {
			t.Errorf("%s has ended: %v", status, status.Ended())
		}
	}
}

// P2: the earliest of all that a saga waits for.
func TestASagaWakesUpForWhatIsDueFirst(t *testing.T) {
	t.Parallel()
	l := begin(t, parallel, `{}`)
	if at := l.state.WakeAt(); !at.Equal(t0.Add(10 * time.Second)) {
		t.Errorf("two timeouts of 10s and a deadline of 10m: wakes at %s", at)
	}
	l.now = t0.Add(5 * time.Second)
	l.act("a", saga.Retry)
	if at := l.state.WakeAt(); !at.Equal(l.step("a").DueAt) || !at.Before(t0.Add(10*time.Second)) {
		t.Errorf("with a backoff: wakes at %s", at)
	}
	l.act("a", saga.Succeeded)
	for _, step := range []string{"b"} {
		r := answer(l.command(step, saga.Action), saga.InProgress)
		r.Extend = time.Hour
		l.give(r)
	}
	if at := l.state.WakeAt(); !at.Equal(t0.Add(10 * time.Minute)) {
		t.Errorf("with the deadline first: wakes at %s", at)
	}
}

func TestASagaThatEndedIsNeverWoken(t *testing.T) {
	t.Parallel()
	for name, end := range map[string]func(l *life){
		"completed":   func(l *life) { l.act("a", saga.Succeeded); l.act("b", saga.Succeeded); l.act("c", saga.Succeeded) },
		"compensated": func(l *life) { l.act("a", saga.Failed); l.act("b", saga.Failed) },
	} {
		l := begin(t, parallel, `{}`)
		end(l)
		if string(l.state.Status) != name || !l.state.WakeAt().IsZero() {
			t.Errorf("%s: the saga is %s and wakes at %s", name, l.state.Status, l.state.WakeAt())
		}
	}
}

func TestAllowedActionsAreThoseThatWouldBeTaken(t *testing.T) {
	t.Parallel()
	l := begin(t, pivoted, `{}`)
	want := func(want ...string) {
		t.Helper()
		if diff := cmp.Diff(want, saga.Allowed(l.def, l.state)); diff != "" {
			t.Errorf("%s: -want +got\n%s", l.picture(), diff)
		}
	}
	want("cancel", "pause", "abandon")
	l.act("a", saga.Retry)
	want("cancel", "retry", "pause", "abandon")
	l.give(saga.Pause{})
	want("cancel", "resume", "abandon")
	l.give(saga.Resume{})
	l.act("a", saga.Succeeded)
	want("cancel", "pause", "abandon")
	l.give(saga.Cancel{}) // recorded while the pivot is in flight
	want("pause", "abandon")
	l.act("v", saga.Succeeded)
	want("pause", "abandon")
	l.exhaust("r")
	want("retry", "resolve", "pause", "abandon")
	l.act("r", saga.Succeeded)
	want()
}

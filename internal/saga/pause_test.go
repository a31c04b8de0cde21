package saga_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/skald-saga/skald/internal/saga"
)

var (
	pause  = saga.Pause{Reason: "stocktaking", Actor: "ada"}
	resume = saga.Resume{Reason: "done", Actor: "ada"}
)

// While a saga is paused replies count, no command is issued, and time stands
// still for it.
func TestAPausedSagaTakesRepliesAndIssuesNothing(t *testing.T) {
	t.Parallel()
	l := begin(t, pivoted, `{}`)
	d := l.give(pause)
	if e := d.History[0]; e.Type != saga.Paused || e.Reason != pause.Reason || e.Actor != pause.Actor || len(d.History) != 1 {
		t.Errorf("history has %+v", d.History)
	}
	if !l.state.WakeAt().IsZero() {
		t.Errorf("a paused saga wants to be woken at %s", l.state.WakeAt())
	}
	l.now = l.now.Add(time.Hour) // far beyond the step's timeout and the deadline
	wantStale(t, l.give(saga.Tick{}), "the saga is paused")
	l.act("a", saga.Succeeded)
	l.want("running: a=succeeded v=pending r=pending")
	l.wantSent()
	wantStale(t, l.give(pause), "the saga is paused already")
	wantIllegal(t, l.give(saga.TryNow{}), saga.IllegalPaused)
	l.give(resume)
	l.wantSent("do-v#1")
	l.want("running: a=succeeded v=running r=pending")
	wantStale(t, l.give(resume), "the saga is not paused")
}

func TestAPauseSpendsNoAttemptAndShiftsTheDeadline(t *testing.T) {
	t.Parallel()
	l := begin(t, pivoted, `{}`)
	due, deadline := l.step("a").DueAt, l.state.DeadlineAt
	l.now = l.now.Add(4 * time.Second)
	l.give(pause)
	l.now = l.now.Add(time.Hour)
	l.give(resume)
	l.wantSent() // what is in flight is still awaited
	if st := l.step("a"); !st.DueAt.Equal(due.Add(time.Hour)) || st.Attempt != 1 || !l.state.DeadlineAt.Equal(deadline.Add(time.Hour)) {
		t.Errorf("after the pause: %+v, deadline %s", st, l.state.DeadlineAt)
	}
	// What waited for its next attempt need not wait longer.
	l.act("a", saga.Retry)
	again := l.step("a").DueAt
	l.give(pause)
	l.now = l.now.Add(time.Hour)
	l.give(resume)
	if st := l.step("a"); !st.DueAt.Equal(again) {
		t.Errorf("the next attempt was at %s, and is at %s", again, st.DueAt)
	}
	l.give(saga.Tick{})
	l.wantSent("do-a#2")
}

// A saga that turns back while it is paused undoes nothing until it is resumed.
func TestAPausedSagaTurnsBackWithoutACommand(t *testing.T) {
	t.Parallel()
	for name, turn := range map[string]func(l *life){
		"cancelled":    func(l *life) { l.give(saga.Cancel{}); l.act("b", saga.Succeeded) },
		"a step fails": func(l *life) { l.act("b", saga.Failed) },
	} {
		l := begin(t, linear, `{}`)
		l.act("a", saga.Succeeded)
		l.give(pause)
		turn(l)
		if l.state.Status != saga.Compensating || len(l.latest) != 0 {
			t.Errorf("%s: %s, sent %v", name, l.picture(), l.latest)
		}
		l.give(resume)
		if len(l.latest) != 1 || l.latest[0].Phase != saga.Compensation {
			t.Errorf("%s: after the pause were sent %v", name, l.latest)
		}
	}
}

// What needs no command needs no resume either.
func TestAPausedSagaMayEnd(t *testing.T) {
	t.Parallel()
	l := begin(t, pivoted, `{}`)
	l.act("a", saga.Succeeded)
	l.act("v", saga.Succeeded)
	l.give(pause)
	l.act("r", saga.Succeeded)
	l.want("completed: a=succeeded v=succeeded r=succeeded")
	if l.state.Paused() {
		t.Error("a saga that has ended is paused")
	}
	wantIllegal(t, l.give(pause), saga.IllegalEnded)
	wantIllegal(t, l.give(resume), saga.IllegalEnded)

	l = begin(t, pivoted, `{}`)
	l.give(pause)
	l.give(saga.Abandon{Actor: "ada"})
	if l.state.Paused() {
		t.Error("an abandoned saga is paused")
	}
}

func TestAStuckSagaCanBeResolvedWhileItIsPaused(t *testing.T) {
	t.Parallel()
	l := begin(t, pivoted, `{}`)
	l.act("a", saga.Succeeded)
	l.exhaust("v")
	l.give(pause)
	l.give(saga.Resolve{Step: "v", Phase: saga.Action, Outcome: saga.ResolveSucceeded})
	l.want("running: a=succeeded v=succeeded r=pending")
	l.wantSent()
	l.give(resume)
	l.wantSent("do-r#1")
}

// on_deadline: suspend leaves it to an operator whether to undo or to go on;
// the deadline is then spent.
func TestADeadlineMaySuspendTheSaga(t *testing.T) {
	t.Parallel()
	text := strings.Replace(pivoted, "deadline: 10m", "deadline: 10m\non_deadline: suspend", 1)
	for name, c := range map[string]struct {
		at       func(l *life)
		suspends bool
	}{
		"before the pivot":       {func(l *life) { keepAtWork(l, "a", 10*time.Minute) }, true},
		"the pivot is in flight": {func(l *life) { l.act("a", saga.Succeeded); keepAtWork(l, "v", 10*time.Minute) }, true},
		"behind the pivot": {func(l *life) {
			l.act("a", saga.Succeeded)
			l.act("v", saga.Succeeded)
			keepAtWork(l, "r", 10*time.Minute)
		}, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := begin(t, text, `{}`)
			c.at(l)
			d := l.wake()
			if l.state.Paused() != c.suspends || !l.state.Overdue || l.state.Cause != nil || l.state.CancelRequested || len(l.latest) != 0 {
				t.Fatalf("at the deadline: %s, paused %v, overdue %v, cause %+v", l.picture(), l.state.Paused(), l.state.Overdue, l.state.Cause)
			}
			if !c.suspends {
				return
			}
			if got := types(d); !slices.Equal(got, []saga.EntryType{saga.Suspended}) || !saga.EventsTerminal.Has(saga.Suspended) {
				t.Errorf("history has %v", got)
			}
			l.now = l.now.Add(time.Hour)
			l.give(resume)
			if !l.state.DeadlineAt.IsZero() || l.state.Paused() {
				t.Errorf("after resume the deadline is %s", l.state.DeadlineAt)
			}
			for !l.state.Status.Ended() {
				if !slices.ContainsFunc(l.sent, func(c saga.Command) bool { return l.give(answer(c, saga.Succeeded)).Ignored == "" }) {
					l.wake()
				}
			}
			l.want("completed: a=succeeded v=succeeded r=succeeded")
			if n := len(l.history); slices.ContainsFunc(l.history[:n], func(e saga.Entry) bool { return e.Type == saga.BecameOverdue }) {
				t.Error("it became overdue twice")
			}
		})
	}
}

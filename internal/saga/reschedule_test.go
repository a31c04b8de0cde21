package saga_test

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/skald-saga/skald/internal/saga"
)

// timer is the saga's timer of that kind.
func (l *life) timer(kind saga.TimerKind) saga.Timer {
	l.t.Helper()
	for _, t := range saga.Timers(l.def, l.state) {
		if t.Kind == kind {
			return t
		}
	}
	l.t.Fatalf("there is no timer of the kind %s: %+v", kind, saga.Timers(l.def, l.state))
	return saga.Timer{}
}

func (l *life) moves(kind saga.TimerKind, at time.Time) saga.Decision {
	l.t.Helper()
	return l.give(saga.Reschedule{Timer: l.timer(kind).Awaited, At: at, Reason: "because", Actor: "ada"})
}

func TestASagasTimersAreWhatItsStateAwaits(t *testing.T) {
	t.Parallel()
	l := begin(t, parallel, `{}`)
	l.act("a", saga.Retry)
	want := []saga.Timer{
		{Awaited: saga.Awaited{Kind: saga.DeadlineTimer}, FireAt: t0.Add(10 * time.Minute)},
		{Awaited: saga.Awaited{Kind: saga.BackoffTimer, Step: "a", Phase: saga.Action, Generation: 1, Attempt: 1}, FireAt: l.step("a").DueAt},
		{Awaited: saga.Awaited{Kind: saga.TimeoutTimer, Step: "b", Phase: saga.Action, Generation: 1, Attempt: 1}, FireAt: t0.Add(10 * time.Second)},
	}
	if diff := cmp.Diff(want, saga.Timers(l.def, l.state)); diff != "" {
		t.Errorf("timers: -want +got\n%s", diff)
	}
	l.give(saga.Pause{})
	if timers := saga.Timers(l.def, l.state); timers != nil {
		t.Errorf("a paused saga waits for %+v", timers)
	}
}

func TestAStartThatIsMovedTakesTheDeadlineWithIt(t *testing.T) {
	t.Parallel()
	l := beginWith(t, parse(t, pivoted), `{}`, saga.Opening{StartAt: t0.Add(time.Hour)})
	l.moves(saga.StartTimer, t0.Add(3*time.Hour))
	if !l.state.WakeAt().Equal(t0.Add(3*time.Hour)) || !l.state.DeadlineAt.Equal(t0.Add(3*time.Hour+10*time.Minute)) {
		t.Errorf("it starts at %s, its deadline is %s", l.state.StartAt, l.state.DeadlineAt)
	}
	l.moves(saga.StartTimer, t0.Add(-time.Minute))
	l.give(saga.Tick{})
	l.wantSent("do-a#1")
	if !l.state.DeadlineAt.Equal(t0.Add(10 * time.Minute)) {
		t.Errorf("started now, its deadline is %s", l.state.DeadlineAt)
	}
}

func TestADeadlineCanBeMovedAndRemoved(t *testing.T) {
	t.Parallel()
	l := begin(t, pivoted, `{}`)
	d := l.moves(saga.DeadlineTimer, t0.Add(5*time.Second))
	if e := d.History[0]; e.Type != saga.DeadlineMoved || e.Reason != "because" || e.Actor != "ada" {
		t.Errorf("history has %+v", e)
	}
	wantStale(t, l.moves(saga.DeadlineTimer, t0.Add(5*time.Second)), "it fires at that time already")
	l.moves(saga.DeadlineTimer, time.Time{})
	l.now = t0.Add(time.Hour)
	l.give(saga.Tick{})
	if l.state.Cause != nil {
		t.Errorf("without a deadline it turned back: %+v", l.state.Cause)
	}
	l = begin(t, pivoted, `{}`)
	l.moves(saga.DeadlineTimer, t0)
	l.give(saga.Tick{})
	if l.state.Cause == nil || l.state.Cause.Code != "deadline" {
		t.Errorf("its deadline is now, and it has not turned back: %s", l.picture())
	}
}

func TestAStepsTimersCanBeMovedAndNotRemoved(t *testing.T) {
	t.Parallel()
	l := begin(t, pivoted, `{}`)
	l.moves(saga.TimeoutTimer, t0.Add(time.Minute))
	l.now = t0.Add(59 * time.Second)
	wantStale(t, l.give(saga.Tick{}), "nothing is due")
	if d := l.moves(saga.TimeoutTimer, time.Time{}); d.Illegal != saga.IllegalTimerNeeded {
		t.Errorf("without a timeout: %q", d.Illegal)
	}
	timeout := l.timer(saga.TimeoutTimer)
	l.act("a", saga.Retry)
	if d := l.give(saga.Reschedule{Timer: timeout.Awaited, At: l.now}); d.Illegal != saga.IllegalNoTimer {
		t.Errorf("what is not awaited any more: %q", d.Illegal)
	}
	l.moves(saga.BackoffTimer, l.now)
	l.give(saga.Tick{})
	l.wantSent("do-a#2")
}

// Participants forget effects after their inbox's retention: a step that was
// tried for so long needs a person.
func TestAnEffectIsTriedOnlyAsLongAsParticipantsRememberIt(t *testing.T) {
	t.Parallel()
	l := begin(t, "name: d\nsteps:\n- {name: v, participant: p, action: do-v, kind: pivot}\n"+
		"- {name: r, participant: p, action: do-r, kind: retriable, timeout: 1h, retry: {max: 12h}}", `{}`)
	l.act("v", saga.Succeeded)
	for l.state.Status != saga.Stuck {
		if l.now.Sub(t0) > 2*saga.EffectLife {
			t.Fatalf("it is tried for ever: %s", l.picture())
		}
		l.wake()
	}
	last := l.sent[len(l.sent)-1]
	if e := l.step("r").Error; e.Code != "expired" || l.now.Sub(last.EffectTime) > saga.EffectLife+time.Hour {
		t.Errorf("after %s it is stuck with %+v", l.now.Sub(last.EffectTime), e)
	}
}

package saga_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/skald-saga/skald/internal/saga"
)

const forever = `
name: forever
steps: [{name: a, participant: p, action: do, compensation: undo, timeout: 1s, retry: {max_attempts: 0, initial: 200ms, max: 30s}}]`

// waits are the backoffs after the first n attempts of a saga of that id.
func waits(t *testing.T, id string, n int) []time.Duration {
	t.Helper()
	l := beginAs(t, parse(t, forever), id, `{}`)
	var waits []time.Duration
	for range n {
		l.act("a", saga.Retry)
		waits = append(waits, l.step("a").DueAt.Sub(l.now))
		l.wake()
	}
	return waits
}

func TestBackoffDoublesUpToItsCap(t *testing.T) {
	t.Parallel()
	ceiling := func(attempt int) time.Duration {
		return min(200*time.Millisecond<<attempt, 30*time.Second)
	}
	longest := make([]time.Duration, 12)
	for i := range 60 {
		for attempt, wait := range waits(t, fmt.Sprintf("saga-%d", i), len(longest)) {
			if wait < 0 || wait >= ceiling(attempt) {
				t.Fatalf("wait %d is %s, not below %s", attempt+1, wait, ceiling(attempt))
			}
			longest[attempt] = max(longest[attempt], wait)
		}
	}
	for attempt, wait := range longest {
		if wait < ceiling(attempt)*3/4 {
			t.Errorf("of 60 sagas none waited longer than %s after attempt %d, of a possible %s", wait, attempt+1, ceiling(attempt))
		}
	}
}

// Full jitter: sagas that fail together do not come back together, and the
// attempts of one saga are not short, or long, all of them.
func TestJitterSpreadsSagasAndAttempts(t *testing.T) {
	t.Parallel()
	const sagas, attempts = 60, 20
	all := 0.0
	for i := range sagas {
		var least, most, sum float64 = 1, 0, 0
		for _, wait := range waits(t, fmt.Sprintf("saga-%d", i), attempts)[8:] { // from the ninth on the ceiling is 30s
			share := float64(wait) / float64(30*time.Second)
			least, most, sum = min(least, share), max(most, share), sum+share
		}
		if most-least < 0.4 {
			t.Errorf("saga %d: its waits are all between %.3f and %.3f of the ceiling", i, least, most)
		}
		all += sum / (attempts - 8)
	}
	if mean := all / sagas; mean < 0.45 || mean > 0.55 {
		t.Errorf("the mean wait is %.3f of the ceiling, want about a half", mean)
	}
}

// The core is pure: the same saga replayed waits the same times.
func TestJitterIsTheSameWhenReplayed(t *testing.T) {
	t.Parallel()
	if diff := cmp.Diff(waits(t, id, 10), waits(t, id, 10)); diff != "" {
		t.Errorf("first and second time differ:\n%s", diff)
	}
	if cmp.Equal(waits(t, id, 10), waits(t, strings.Replace(id, "0", "1", 1), 10)) {
		t.Error("two sagas wait the same times")
	}
}

func TestATickBeforeItsTimeChangesNothing(t *testing.T) {
	t.Parallel()
	l := begin(t, linear, `{}`)
	l.now = t0.Add(10*time.Second - time.Nanosecond)
	wantStale(t, l.give(saga.Tick{}), "nothing is due")
	l.now = t0.Add(10 * time.Second)
	if d := l.give(saga.Tick{}); d.Ignored != "" {
		t.Errorf("a tick in time was ignored: %s", d.Ignored)
	}
	wantStale(t, l.give(saga.Tick{}), "nothing is due") // the same again
}

func TestATickOfASagaThatEndedChangesNothing(t *testing.T) {
	t.Parallel()
	l := begin(t, linear, `{}`)
	l.act("a", saga.Failed)
	l.now = t0.Add(time.Hour)
	wantStale(t, l.give(saga.Tick{}), "the saga is compensated")
}

func TestASilentAttemptIsFollowedByAnother(t *testing.T) {
	t.Parallel()
	l := begin(t, linear, `{}`)
	l.wake() // the timeout
	if st := l.step("a"); !st.Waiting || st.Attempt != 1 || st.Error.Code != "timeout" {
		t.Errorf("after the timeout the step is %+v", st)
	}
	l.wantSent()
	l.wake() // the backoff
	l.wantSent("do-a#2")
	l.act("a", saga.Succeeded)
	l.want("running: a=succeeded b=running c=pending")
	if l.step("a").Error != nil {
		t.Errorf("a step that succeeded keeps the error %+v", l.step("a").Error)
	}
}

func TestTheDeadlineTurnsTheSagaBackBeforeThePivot(t *testing.T) {
	t.Parallel()
	l := begin(t, parallel, `{}`)
	l.act("a", saga.Succeeded)
	keepAtWork(l, "b", 10*time.Minute)
	l.wake()
	l.want("compensating: a=succeeded b=running c=pending") // b is settled first
	if c := l.state.Cause; c == nil || c.Code != "deadline" {
		t.Errorf("cause %+v", c)
	}
	l.act("b", saga.Succeeded)
	l.wantSent("undo-b#1", "undo-a#1")
	l.undo("a", saga.Succeeded)
	l.undo("b", saga.Succeeded)
	l.want("compensated: a=compensated b=compensated c=pending")
}

// keepAtWork has a step say that it is at work until shortly before a time.
func keepAtWork(l *life, step string, until time.Duration) {
	l.t.Helper()
	r := answer(l.command(step, saga.Action), saga.InProgress)
	r.Extend = until + 5*time.Second - l.now.Sub(t0)
	l.give(r)
	l.now = t0.Add(until - time.Second)
}

func TestTheDeadlineAfterThePivotMakesTheSagaOverdue(t *testing.T) {
	t.Parallel()
	l := begin(t, pivoted, `{}`)
	l.act("a", saga.Succeeded)
	l.act("v", saga.Succeeded)
	keepAtWork(l, "r", 10*time.Minute)
	l.wake()
	l.want("running: a=succeeded v=succeeded r=running")
	if !l.state.Overdue || l.state.Cause != nil {
		t.Errorf("overdue %v, cause %+v", l.state.Overdue, l.state.Cause)
	}
	l.act("r", saga.Succeeded)
	l.want("completed: a=succeeded v=succeeded r=succeeded")
}

func TestASagaWithoutADeadlineHasNone(t *testing.T) {
	t.Parallel()
	l := begin(t, linear, `{}`)
	if !l.state.DeadlineAt.IsZero() {
		t.Errorf("deadline %s", l.state.DeadlineAt)
	}
}

// A deadline that passes together with the wait for a step: no new attempt.
func TestTheDeadlineComesBeforeOtherTimers(t *testing.T) {
	t.Parallel()
	l := begin(t, pivoted, `{}`)
	l.now = t0.Add(time.Hour)
	d := l.give(saga.Tick{})
	l.want("compensating: a=compensating v=pending r=pending")
	want := []saga.EntryType{saga.TurnedBack, saga.StepGivenUp, saga.CommandIssued}
	if diff := cmp.Diff(want, types(d)); diff != "" {
		t.Errorf("history: -want +got\n%s", diff)
	}
}

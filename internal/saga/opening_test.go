package saga_test

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/skald-saga/skald/internal/saga"
)

// beginWith is a saga that is started with more than an input.
func beginWith(t rapid.TB, def *saga.Definition, input string, o saga.Opening) *life {
	t.Helper()
	l := &life{t: t, def: def, now: t0}
	d, err := saga.StartWith(def, id, json.RawMessage(input), o, l.now)
	if err != nil {
		t.Fatalf("start: %v", err)
	}
	l.take(d)
	return l
}

// P2: a saga with a start time waits for it, says so, and begins by itself.
func TestADelayedSagaBeginsAtItsTime(t *testing.T) {
	t.Parallel()
	l := beginWith(t, parse(t, pivoted), `{}`, saga.Opening{StartAt: t0.Add(time.Hour)})
	l.wantSent()
	if l.state.WaitsFor() != saga.ForStart || !l.state.WakeAt().Equal(t0.Add(time.Hour)) {
		t.Fatalf("it waits for %q until %s", l.state.WaitsFor(), l.state.WakeAt())
	}
	l.now = t0.Add(time.Hour - time.Microsecond)
	wantStale(t, l.give(saga.Tick{}), "nothing is due")
	d := l.wake()
	l.wantSent("do-a#1")
	if diff := cmp.Diff([]saga.EntryType{saga.BecameDue, saga.CommandIssued}, types(d)); diff != "" {
		t.Errorf("history: -want +got\n%s", diff)
	}
	if l.state.WaitsFor() != "" {
		t.Errorf("it has begun and waits for %q", l.state.WaitsFor())
	}
}

func TestTheDeadlineOfADelayedSagaCountsFromItsStartTime(t *testing.T) {
	t.Parallel()
	l := beginWith(t, parse(t, pivoted), `{}`, saga.Opening{StartAt: t0.Add(time.Hour)})
	if want := t0.Add(time.Hour + 10*time.Minute); !l.state.DeadlineAt.Equal(want) {
		t.Errorf("the deadline is %s, want %s", l.state.DeadlineAt, want)
	}
}

func TestAStartTimeThatHasPassedMeansAtOnce(t *testing.T) {
	t.Parallel()
	for _, at := range []time.Time{t0, t0.Add(-time.Minute), {}} {
		l := beginWith(t, parse(t, pivoted), `{}`, saga.Opening{StartAt: at})
		l.wantSent("do-a#1")
		if !l.state.StartAt.IsZero() || !l.state.DeadlineAt.Equal(t0.Add(10*time.Minute)) {
			t.Errorf("started at %s it waits until %s, its deadline is %s", at, l.state.StartAt, l.state.DeadlineAt)
		}
	}
}

// P3: what has not begun ends as compensated without a command.
func TestADelayedSagaThatIsCancelledSendsNothing(t *testing.T) {
	t.Parallel()
	l := beginWith(t, parse(t, pivoted), `{}`, saga.Opening{StartAt: t0.Add(time.Hour)})
	l.give(saga.Cancel{Reason: "changed my mind", Actor: "ada"})
	l.want("compensated: a=pending v=pending r=pending")
	if len(l.sent) > 0 || l.state.WaitsFor() != "" {
		t.Errorf("it sent %v and waits for %q", l.sent, l.state.WaitsFor())
	}
}

// While a saga is paused its start time may pass: it begins when it is
// resumed. Its deadline shifts only by the pause after that time.
func TestAPauseBeforeTheStartCostsNoTime(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name            string
		paused, resumed time.Duration // after the saga was accepted
		shift           time.Duration
		sent            bool
	}{
		{"a pause that ends before the start", time.Minute, 30 * time.Minute, 0, false},
		{"a pause over the start time", time.Minute, 90 * time.Minute, 30 * time.Minute, true},
	} {
		l := beginWith(t, parse(t, pivoted), `{}`, saga.Opening{StartAt: t0.Add(time.Hour)})
		due := l.state.DeadlineAt
		l.now = t0.Add(test.paused)
		l.give(saga.Pause{})
		l.now = t0.Add(test.resumed)
		l.give(saga.Tick{})
		l.give(saga.Resume{})
		if got := l.state.DeadlineAt.Sub(due); got != test.shift {
			t.Errorf("%s: the deadline shifts by %s, want %s", test.name, got, test.shift)
		}
		l.give(saga.Tick{})
		if sent := len(l.sent) > 0; sent != test.sent {
			t.Errorf("%s: %d commands after it", test.name, len(l.sent))
		}
	}
}

package coordinator_test

import (
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/skald-saga/skald/internal/coordinator"
	"github.com/skald-saga/skald/internal/saga"
	"github.com/skald-saga/skald/internal/wire"
)

// timers walks the whole list, a page at a time.
func (f *fixture) timers(filter coordinator.TimerFilter) (all []coordinator.Timer) {
	f.t.Helper()
	for more := true; more; {
		var page []coordinator.Timer
		var err error
		page, filter.After, more, err = f.c.Timers(f.t.Context(), filter)
		if err != nil || len(page) > filter.Limit {
			f.t.Fatalf("a page of %d timers: %v", len(page), err)
		}
		all = append(all, page...)
	}
	return all
}

func (f *fixture) timerOf(id uuid.UUID, kind saga.TimerKind) coordinator.Timer {
	f.t.Helper()
	found := f.timers(coordinator.TimerFilter{Saga: id, Kind: kind, Limit: 10})
	if len(found) != 1 {
		f.t.Fatalf("saga %s has the timers %+v of the kind %s, want 1", id, found, kind)
	}
	return found[0]
}

// Every open saga that waits for a time is in the list once, with all that it
// waits for, and nothing else is, however small the pages.
func TestTheListOfTimersIsWhatOpenSagasWaitFor(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	delayed, err := f.startAt(f.clock.Now().Add(time.Hour), nil)
	if err != nil {
		t.Fatal(err)
	}
	running, backing, paused, ended := f.start(), f.start(), f.start(), f.start()
	for _, c := range f.commands() {
		switch c.EffectID.Saga {
		case backing.ID.String():
			f.answer(c, wire.Retry)
		case ended.ID.String():
			f.answer(c, wire.Failed)
		}
	}
	if _, err := f.c.Pause(t.Context(), paused.ID, coordinator.Operation{Actor: "ada"}); err != nil {
		t.Fatal(err)
	}
	want := []string{
		running.ID.String() + ".deadline", running.ID.String() + ".step-timeout.reserve.action.1.1",
		backing.ID.String() + ".deadline", backing.ID.String() + ".backoff.reserve.action.1.1",
		delayed.Saga.ID.String() + ".start", delayed.Saga.ID.String() + ".deadline",
	}
	slices.Sort(want)
	for _, limit := range []int{1, 2, 3, 50} {
		var got []string
		for _, timer := range f.timers(coordinator.TimerFilter{Limit: limit}) {
			got = append(got, timer.ID.String())
			if id, err := coordinator.ParseTimerID(timer.ID.String()); err != nil || id != timer.ID {
				t.Errorf("%s is read as %+v: %v", timer.ID, id, err)
			}
		}
		slices.Sort(got)
		if !slices.Equal(got, want) {
			t.Fatalf("in pages of %d:\n%v, want\n%v", limit, got, want)
		}
	}
	if got := f.timers(coordinator.TimerFilter{Kind: saga.StartTimer, Limit: 1}); len(got) != 1 || !got[0].FireAt.Equal(f.clock.Now().Add(time.Hour)) {
		t.Errorf("start times: %+v", got)
	}
	if got := f.timers(coordinator.TimerFilter{Definition: "order", Before: f.clock.Now().Add(time.Minute), Limit: 50}); len(got) != 2 {
		t.Errorf("within a minute: %+v", got)
	}
	if got := f.timers(coordinator.TimerFilter{Definition: "locked", Limit: 50}); got != nil {
		t.Errorf("of another definition: %+v", got)
	}
}

func TestATimerThatIsMovedFiresAtItsNewTime(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	op := coordinator.Operation{Actor: "ada", Reason: "earlier"}
	started, err := f.startAt(f.clock.Now().Add(time.Hour), nil)
	if err != nil {
		t.Fatal(err)
	}
	id := f.timerOf(started.Saga.ID, saga.StartTimer).ID
	moved, err := f.c.MoveTimer(t.Context(), id, op, f.clock.Now().Add(time.Minute))
	if err != nil || !moved.FireAt.Equal(f.clock.Now().Add(time.Minute)) || moved.ID != id {
		t.Fatalf("moved it is %+v: %v", moved, err)
	}
	f.clock.advance(59 * time.Second)
	if moved, err = f.c.MoveTimer(t.Context(), id, op, f.clock.Now().Add(-time.Hour)); err != nil || !moved.FireAt.Equal(f.clock.Now()) {
		t.Fatalf("moved to the past it is %+v: %v", moved, err)
	}
	first := f.await(time.Millisecond)
	if _, err := f.c.MoveTimer(t.Context(), id, op, f.clock.Now()); !errors.Is(err, coordinator.ErrNotFound) {
		t.Errorf("what has fired: %v", err)
	}
	events, _, err := f.c.History(t.Context(), started.Saga.ID, 0, 10)
	if err != nil || events[1].Type != "start-moved" || events[1].Actor != "ada" || events[1].Reason != "earlier" || events[1].StartAt == nil {
		t.Errorf("history has %+v: %v", events[1], err)
	}
	// 2.1 (6): a timeout that fires now spends no attempt on a command that is still in the outbox.
	timeout := f.timerOf(started.Saga.ID, saga.TimeoutTimer)
	if _, err := f.c.MoveTimer(t.Context(), timeout.ID, op, f.clock.Now()); err != nil {
		t.Fatal(err)
	}
	f.published()
	if again := f.await(100 * time.Millisecond); again.EffectID != first.EffectID || again.Attempt != 2 {
		t.Errorf("after the timeout came %+v", again)
	}
	f.verifyHistory()
}

func TestOnlyADeadlineCanBeRemoved(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	s := f.start()
	op := coordinator.Operation{Actor: "ada"}
	_, err := f.c.MoveTimer(t.Context(), f.timerOf(s.ID, saga.TimeoutTimer).ID, op, time.Time{})
	var illegal *coordinator.IllegalError
	if !errors.As(err, &illegal) || illegal.Code != saga.IllegalTimerNeeded || !slices.Equal(illegal.Allowed, []string{"reschedule"}) {
		t.Errorf("a timeout is removed: %v", err)
	}
	deadline := f.timerOf(s.ID, saga.DeadlineTimer).ID
	if _, err := f.c.MoveTimer(t.Context(), deadline, op, f.clock.Now().Add(coordinator.TimerAhead+time.Minute)); !errors.Is(err, coordinator.ErrStartTime) {
		t.Errorf("moved too far: %v", err)
	}
	stale := op
	stale.IfVersion = 7
	if _, err := f.c.MoveTimer(t.Context(), deadline, stale, time.Time{}); !errors.Is(err, coordinator.ErrPrecondition) {
		t.Errorf("at another version: %v", err)
	}
	if _, err := f.c.MoveTimer(t.Context(), deadline, op, time.Time{}); err != nil {
		t.Fatal(err)
	}
	if left := f.timers(coordinator.TimerFilter{Saga: s.ID, Kind: saga.DeadlineTimer, Limit: 10}); left != nil {
		t.Errorf("the deadline is still there: %+v", left)
	}
	if _, err := f.c.Pause(t.Context(), s.ID, op); err != nil {
		t.Fatal(err)
	}
	id := coordinator.TimerID{Saga: s.ID, Awaited: saga.Awaited{Kind: saga.TimeoutTimer, Step: "reserve", Phase: saga.Action, Generation: 1, Attempt: 1}}
	if _, err := f.c.MoveTimer(t.Context(), id, op, f.clock.Now()); !errors.As(err, &illegal) || illegal.Code != saga.IllegalPaused {
		t.Errorf("while the saga is paused: %v", err)
	}
	f.verifyHistory()
}

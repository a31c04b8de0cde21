package coordinator_test

import (
	"errors"
	"slices"
	"testing"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/skald-saga/skald/internal/coordinator"
	"github.com/skald-saga/skald/internal/saga"
	"github.com/skald-saga/skald/internal/wire"
)

func TestCancelUndoesWhatWasDone(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	s := f.start()
	f.answer(f.only(), wire.Succeeded)
	charge := f.only()
	op := coordinator.Operation{Actor: "ada", Reason: "changed her mind"}
	for range 2 { // asking again is no error and changes nothing
		got, err := f.c.Cancel(t.Context(), s.ID, op)
		if err != nil || got.Status != saga.Compensating || got.Version != 3 {
			t.Fatalf("cancelled: %s, version %d, %v", got.Status, got.Version, err)
		}
	}
	if n := len(f.commands()); n != 0 {
		t.Fatalf("%d commands before the step in flight is settled", n)
	}
	f.answer(charge, wire.Succeeded)
	for _, want := range []string{"skald.cmd.payment.refund", "skald.cmd.inventory.release"} {
		cmd := f.only()
		if cmd.Subject != want {
			t.Fatalf("command for %s, want %s", cmd.Subject, want)
		}
		f.answer(cmd, wire.Succeeded)
	}
	if got := f.get(s.ID); got.Status != saga.Compensated {
		t.Errorf("the saga is %s", got.Status)
	}
	events, more, err := f.c.History(t.Context(), s.ID, 0, 100)
	if err != nil || more {
		t.Fatal(err)
	}
	if !slices.ContainsFunc(events, func(e coordinator.HistoryEvent) bool { return e.Actor == op.Actor && e.Reason == op.Reason }) {
		t.Errorf("history does not say who cancelled, and why: %+v", events)
	}
	f.verifyHistory()
}

func TestCancelIsRefusedWhereItCannotBe(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	s := f.start()
	if _, err := f.c.Cancel(t.Context(), s.ID, coordinator.Operation{IfVersion: 9}); !errors.Is(err, coordinator.ErrPrecondition) {
		t.Errorf("another version: %v", err)
	}
	if _, err := f.c.Cancel(t.Context(), uuid.New(), coordinator.Operation{}); !errors.Is(err, coordinator.ErrNotFound) {
		t.Errorf("no such saga: %v", err)
	}
	for range 3 {
		f.answer(f.only(), wire.Succeeded)
	}
	_, err := f.c.Cancel(t.Context(), s.ID, coordinator.Operation{})
	var illegal *coordinator.IllegalError
	if !errors.As(err, &illegal) || illegal.Code != saga.IllegalEnded || len(illegal.Allowed) != 0 {
		t.Errorf("a completed saga: %v", err)
	}
	if got := f.get(s.ID); got.Version != 4 {
		t.Errorf("refused requests made version %d", got.Version)
	}
}

// While nobody knows whether the pivot happened, a cancel is only noted.
func TestCancelWaitsForThePivot(t *testing.T) {
	t.Parallel()
	for outcome, want := range map[wire.Outcome]saga.Status{wire.Succeeded: saga.Completed, wire.Failed: saga.Compensating} {
		f := newFixture(t)
		s := f.start()
		f.answer(f.only(), wire.Succeeded)
		f.answer(f.only(), wire.Succeeded)
		pivot := f.only()
		got, err := f.c.Cancel(t.Context(), s.ID, coordinator.Operation{})
		if err != nil || !got.CancelRequested || got.Status != saga.Running {
			t.Fatalf("cancelled while the pivot is in flight: %+v, %v", got, err)
		}
		f.answer(pivot, outcome)
		if got := f.get(s.ID); got.Status != want {
			t.Errorf("the pivot %s: the saga is %s, want %s", outcome, got.Status, want)
		}
		f.verifyHistory()
	}
}

// An alert on an increase must see the first stuck saga.
func TestCountersBeginAtZero(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	reg := prometheus.NewRegistry()
	f.coordinator(func(cfg *coordinator.Config) { cfg.Metrics = coordinator.NewMetrics(reg) })
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	there := map[string]bool{}
	for _, family := range families {
		there[family.GetName()] = true
	}
	for _, name := range []string{"saga_stuck_total", "saga_started_total", "saga_finished_total"} {
		if !there[name] {
			t.Errorf("%s is not there before its first event", name)
		}
	}
}

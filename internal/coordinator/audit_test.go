package coordinator_test

import (
	"errors"
	"testing"

	"github.com/skald-saga/skald/internal/coordinator"
	"github.com/skald-saga/skald/internal/saga"
	"github.com/skald-saga/skald/internal/wire"
)

// log is what operators did, the first thing first.
func (f *fixture) log(filter coordinator.AuditFilter) []coordinator.AuditEntry {
	f.t.Helper()
	filter.Limit = 100
	entries, more, err := f.c.AuditLog(f.t.Context(), filter)
	if err != nil || more {
		f.t.Fatal(more, err)
	}
	for i, j := 0, len(entries)-1; i < j; i, j = i+1, j-1 {
		entries[i], entries[j] = entries[j], entries[i]
	}
	return entries
}

func TestEveryRequestOfAnOperatorIsInTheAuditLog(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	s := f.start()
	f.answer(f.only(), wire.Succeeded)
	f.only()
	op := coordinator.Operation{Actor: "ada", Reason: "stocktaking"}
	for range 2 {
		if _, err := f.c.Pause(t.Context(), s.ID, op); err != nil {
			t.Fatal(err)
		}
	}
	var illegal *coordinator.IllegalError
	if _, err := f.c.Retry(t.Context(), s.ID, op, "", nil); !errors.As(err, &illegal) {
		t.Fatalf("retry while paused: %v", err)
	}
	if _, err := f.c.Abandon(t.Context(), s.ID, coordinator.Operation{Actor: "bob", Reason: "burnt down"}); err != nil {
		t.Fatal(err)
	}
	var again coordinator.Started
	for range 2 {
		var err error
		if again, err = f.c.Restart(t.Context(), s.ID, op, coordinator.RestartRequest{}); err != nil {
			t.Fatal(err)
		}
	}
	type line struct {
		actor, action, outcome string
		before, after          coordinator.SagaPoint
		details                string
	}
	ended := coordinator.SagaPoint{Version: 4, Status: saga.Abandoned}
	second, third := coordinator.SagaPoint{Version: 2, Status: saga.Running}, coordinator.SagaPoint{Version: 3, Status: saga.Running}
	restarted := `{"restarted_as":"` + again.Saga.ID.String() + `"}`
	want := []line{
		{"ada", "pause", coordinator.Applied, second, third, ""},
		{"ada", "pause", coordinator.Unchanged, third, third, ""},
		{"bob", "abandon", coordinator.Applied, third, ended, ""},
		{"ada", "restart", coordinator.Applied, ended, ended, restarted},
		{"ada", "restart", coordinator.Unchanged, ended, ended, restarted},
	}
	got := f.log(coordinator.AuditFilter{Saga: s.ID.String()})
	if len(got) != len(want) {
		t.Fatalf("the log has %d entries, want %d: %+v", len(got), len(want), got)
	}
	for i, e := range got {
		if l := (line{e.Actor, e.Action, e.Outcome, e.Before, e.After, string(e.Details)}); l != want[i] {
			t.Errorf("entry %d is %+v, want %+v", i+1, l, want[i])
		}
		if e.Target != coordinator.TargetSaga || e.TargetID != s.ID.String() || e.Reason == "" || !e.At.Equal(f.clock.Now()) {
			t.Errorf("entry %d is %+v", i+1, e)
		}
	}
	if n := len(f.log(coordinator.AuditFilter{Actor: "bob"})); n != 1 {
		t.Errorf("bob did %d things", n)
	}
	if n := len(f.log(coordinator.AuditFilter{Saga: again.Saga.ID.String()})); n != 0 {
		t.Errorf("%d things were done to the new saga", n)
	}
}

// A log that lacks what was done, or has what was not, would be worse than none.
func TestTheAuditLogIsWrittenWithWhatItTellsOf(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	s := f.start()
	if _, err := f.pool.Exec(t.Context(), `ALTER TABLE audit_log ADD CHECK (action <> 'cancel')`); err != nil {
		t.Fatal(err)
	}
	if _, err := f.c.Cancel(t.Context(), s.ID, coordinator.Operation{Actor: "ada"}); err == nil {
		t.Fatal("cancelled without a word in the log")
	}
	if got := f.get(s.ID); got.Version != 1 || got.Status != saga.Running {
		t.Errorf("the saga is %s at version %d", got.Status, got.Version)
	}
}

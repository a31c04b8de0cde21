package coordinator_test

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/skald-saga/skald/internal/coordinator"
	"github.com/skald-saga/skald/internal/saga"
	"github.com/skald-saga/skald/internal/testkit"
	"github.com/skald-saga/skald/internal/wire"
)

func (f *fixture) batch(req coordinator.BatchRequest) coordinator.Batch {
	f.t.Helper()
	b, _, err := f.c.StartBatch(f.t.Context(), req, stocktaking)
	if err != nil {
		f.t.Fatal(err)
	}
	return b
}

func (f *fixture) awaitBatch(id uuid.UUID) (b coordinator.Batch) {
	f.t.Helper()
	testkit.Eventually(f.t, "the batch operation is completed", 60*time.Second, func() (bool, string) {
		var err error
		b, err = f.c.Batch(f.t.Context(), id)
		return err == nil && b.Status == coordinator.BatchCompleted, fmt.Sprintf("%s %v %v", b.Status, b.Outcomes, err)
	})
	return b
}

func (f *fixture) items(id uuid.UUID) map[uuid.UUID]string {
	f.t.Helper()
	items, more, err := f.c.BatchItems(f.t.Context(), id, "", uuid.Nil, 1000)
	if err != nil || more {
		f.t.Fatal(more, err)
	}
	became := map[uuid.UUID]string{}
	for _, i := range items {
		became[i.Saga] = i.Outcome
		if i.Code != "" {
			became[i.Saga] += " " + i.Code
		}
	}
	return became
}

var running = &coordinator.SagaFilter{Statuses: []saga.Status{saga.Running}}

func TestABatchOperationDoesEachSagaOnce(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.coordinator(nil) // both work on it
	const n = 120      // more than two pages
	for range n {
		f.start()
	}
	b := f.batch(coordinator.BatchRequest{Action: "pause", Filter: running})
	if b.Matched != n || b.Status != coordinator.BatchRunning || b.Actor != stocktaking.Actor {
		t.Errorf("accepted: %+v", b)
	}
	later := f.start()
	b = f.awaitBatch(b.ID)
	if b.Outcomes[coordinator.Applied] != n || len(b.Outcomes) != 1 || b.EndedAt == nil {
		t.Errorf("completed: %+v", b)
	}
	if f.get(later.ID).PausedAt != nil {
		t.Error("a saga that began later was paused too")
	}
	if got := f.count(`SELECT count(*) FROM saga WHERE state ->> 'paused' IS NOT NULL AND version = 2`); got != n {
		t.Errorf("%d sagas were paused, once", got)
	}
	if got := f.count(`SELECT count(*) FROM audit_log WHERE batch_id = $1 AND target = 'saga'`, b.ID); got != n {
		t.Errorf("%d entries of the audit log", got)
	}
	f.verifyHistory()
}

func TestABatchOperationSaysWhatBecameOfEachSaga(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	open, paused, done, nobody := f.start(), f.start(), f.start(), uuid.New()
	for _, cmd := range f.commands() {
		if cmd.Saga == done.ID.String() {
			f.answer(cmd, wire.Failed)
		}
	}
	if _, err := f.c.Pause(t.Context(), paused.ID, stocktaking); err != nil {
		t.Fatal(err)
	}
	b := f.batch(coordinator.BatchRequest{Action: "pause", IDs: []uuid.UUID{nobody, done.ID, paused.ID, open.ID, open.ID}})
	f.awaitBatch(b.ID)
	want := map[uuid.UUID]string{
		open.ID: "applied", paused.ID: "unchanged", done.ID: "refused saga-already-terminal", nobody: "not-found",
	}
	if got := f.items(b.ID); fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("the sagas became %v, want %v", got, want)
	}
	// Start the one that was undone again; the others cannot be.
	b = f.batch(coordinator.BatchRequest{Action: "restart", IDs: []uuid.UUID{done.ID, open.ID}})
	f.awaitBatch(b.ID)
	want = map[uuid.UUID]string{done.ID: "applied", open.ID: "refused saga-not-undone"}
	if got := f.items(b.ID); fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("the sagas became %v, want %v", got, want)
	}
	if f.get(done.ID).RestartedAs == uuid.Nil {
		t.Error("it was not started again")
	}
}

// The filter is asked when a saga's turn comes, and what is done in one
// transaction is done completely: with a row that cannot be written, nothing is.
func TestASagaIsDoneWithTheRowThatSaysSo(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	good, bad := f.start(), f.start()
	if _, err := f.pool.Exec(t.Context(), fmt.Sprintf(`ALTER TABLE batch_item ADD CHECK (saga_id <> '%s' OR outcome = 'failed')`, bad.ID)); err != nil {
		t.Fatal(err)
	}
	b := f.awaitBatch(f.batch(coordinator.BatchRequest{Action: "abandon", Filter: running}).ID)
	if b.Outcomes[coordinator.Applied] != 1 || b.Outcomes[coordinator.Failed] != 1 {
		t.Errorf("completed: %+v", b)
	}
	if f.get(bad.ID).Status != saga.Running || f.get(good.ID).Status != saga.Abandoned {
		t.Errorf("the sagas are %s and %s", f.get(bad.ID).Status, f.get(good.ID).Status)
	}
}

func TestABatchOperationCanBeStopped(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	const n = 150
	for range n {
		f.start()
	}
	// Its turn comes, and then never again.
	b := f.batch(coordinator.BatchRequest{Action: "pause", Filter: running})
	testkit.Eventually(t, "the first page is done", 20*time.Second, func() (bool, string) {
		return f.count(`SELECT count(*) FROM batch_item`) > 0, "not yet"
	})
	for range 2 {
		got, err := f.c.CancelBatch(t.Context(), b.ID, stocktaking)
		if err != nil || got.Status != coordinator.BatchCancelled || got.EndedAt == nil {
			t.Fatalf("cancelled: %+v, %v", got, err)
		}
	}
	next := f.awaitBatch(f.batch(coordinator.BatchRequest{Action: "resume", Filter: running}).ID) // goes behind it
	if next.Outcomes[coordinator.Applied] >= n {
		t.Errorf("all of %d were done", n)
	}
	if _, err := f.c.CancelBatch(t.Context(), next.ID, stocktaking); !errors.Is(err, coordinator.ErrBatchEnded) {
		t.Errorf("cancelled after its end: %v", err)
	}
	if _, err := f.c.CancelBatch(t.Context(), uuid.New(), stocktaking); !errors.Is(err, coordinator.ErrNotFound) {
		t.Errorf("cancelled without one: %v", err)
	}
}

func TestOneKeyMakesOneBatchOperation(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.start()
	req := coordinator.BatchRequest{Action: "pause", Filter: running, Key: &coordinator.IdempotencyKey{Route: "r", Key: "k"}}
	first := f.batch(req)
	again, replayed, err := f.c.StartBatch(t.Context(), req, stocktaking)
	if err != nil || !replayed || again.ID != first.ID {
		t.Errorf("again: %s instead of %s, %v, %v", again.ID, first.ID, replayed, err)
	}
	req.Key.Fingerprint[0] = 1
	if _, _, err := f.c.StartBatch(t.Context(), req, stocktaking); !errors.Is(err, coordinator.ErrKeyReused) {
		t.Errorf("another request: %v", err)
	}
	if n := f.count(`SELECT count(*) FROM batch_operation`); n != 1 {
		t.Errorf("%d batch operations", n)
	}
}

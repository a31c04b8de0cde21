package coordinator_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/skald-saga/skald/internal/coordinator"
	"github.com/skald-saga/skald/internal/saga"
	"github.com/skald-saga/skald/internal/testkit"
	"github.com/skald-saga/skald/internal/wire"
)

const lockedSteps = `
name: locked
lock: input.key
steps:
  - {name: a, participant: p, action: do-a, compensation: undo-a, timeout: 10s, retry: {max_attempts: 1}}
  - {name: v, participant: p, action: do-v, kind: pivot, timeout: 10s, retry: {max_attempts: 1}}
`

func (f *fixture) register(text string) {
	f.t.Helper()
	def, err := saga.Parse([]byte(text))
	if err != nil {
		f.t.Fatal(err)
	}
	if err := f.c.Register(f.t.Context(), def); err != nil {
		f.t.Fatal(err)
	}
}

func (f *fixture) startLocked(key string, startAt time.Time) coordinator.Saga {
	f.t.Helper()
	s, err := f.c.Start(f.t.Context(), coordinator.StartRequest{
		Definition: "locked", Input: json.RawMessage(fmt.Sprintf(`{"key": %q}`, key)), StartAt: startAt,
	})
	if err != nil {
		f.t.Fatal(err)
	}
	return s.Saga
}

// begins waits until a saga's first command is written.
func (f *fixture) begins(id uuid.UUID) wire.Command {
	f.t.Helper()
	c := f.await(time.Millisecond)
	if c.EffectID.Saga != id.String() || c.EffectID.Step != "a" {
		f.t.Fatalf("saga %s sends %+v, want saga %s to begin", c.EffectID.Saga, c.EffectID, id)
	}
	return c
}

// wantLock compares what people see of a saga's lock.
func (f *fixture) wantLock(id uuid.UUID, state saga.LockState, holder uuid.UUID, position int) {
	f.t.Helper()
	got := f.get(id).Lock
	if got == nil || got.State != state || got.Holder != holder || got.Position != position {
		f.t.Fatalf("the lock is %+v, want %s, by %s, position %d", got, state, holder, position)
	}
}

func TestSagasOfOneKeyRunOneAfterTheOther(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.register(lockedSteps)
	first := f.startLocked("k", time.Time{})
	command := f.begins(first.ID)
	second, third, other := f.startLocked("k", time.Time{}), f.startLocked("k", time.Time{}), f.startLocked("another", time.Time{})
	f.answer(f.begins(other.ID), wire.Failed)
	f.wantLock(first.ID, saga.LockHeld, uuid.Nil, 0)
	f.wantLock(second.ID, saga.LockWaiting, first.ID, 1)
	f.wantLock(third.ID, saga.LockWaiting, first.ID, 2)
	if second.Lock.Holder != first.ID || second.WaitsFor != saga.ForLock {
		t.Errorf("the start is answered with %+v", second.Lock)
	}

	f.answer(command, wire.Succeeded)
	f.answer(f.only(), wire.Succeeded)
	command = f.begins(second.ID)
	f.wantLock(first.ID, saga.LockReleased, uuid.Nil, 0)
	f.wantLock(third.ID, saga.LockWaiting, second.ID, 1)
	f.answer(command, wire.Failed)
	f.answer(f.begins(third.ID), wire.Failed)
	if n := f.count(`SELECT count(*) FROM saga_lock`); n != 0 {
		t.Errorf("%d rows stay in saga_lock", n)
	}
	f.verifyHistory()
}

// P2: who is stuck keeps the lock, for all to see, until somebody ends it.
func TestAStuckSagaKeepsItsLockUntilItIsAbandoned(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.register(lockedSteps)
	first := f.startLocked("k", time.Time{})
	f.answer(f.begins(first.ID), wire.Succeeded)
	f.answer(f.only(), wire.Retry)
	second := f.startLocked("k", time.Time{})
	f.wantLock(second.ID, saga.LockWaiting, first.ID, 1)
	if s := f.get(first.ID); s.Status != saga.Stuck || s.Lock.State != saga.LockHeld {
		t.Fatalf("the holder is %s, its lock %+v", s.Status, s.Lock)
	}
	if _, err := f.c.Abandon(t.Context(), first.ID, coordinator.Operation{Actor: "ada", Reason: "lost"}); err != nil {
		t.Fatal(err)
	}
	f.begins(second.ID)
	f.verifyHistory()
}

func TestASagaThatIsCancelledWhileItWaitsLetsTheNextOneThrough(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.register(lockedSteps)
	first := f.startLocked("k", time.Time{})
	command := f.begins(first.ID)
	second, third := f.startLocked("k", time.Time{}), f.startLocked("k", time.Time{})
	s, err := f.c.Cancel(t.Context(), second.ID, coordinator.Operation{Actor: "ada"})
	if err != nil || s.Status != saga.Compensated || s.Lock.State != saga.LockReleased {
		t.Fatalf("it is %s: %v", s.Status, err)
	}
	f.wantLock(third.ID, saga.LockWaiting, first.ID, 1)
	f.answer(command, wire.Failed)
	f.begins(third.ID)
	f.verifyHistory()
}

// 2.1 (11): a lock is taken when a saga is due, in the order of acceptance. Who
// was accepted first and is not due lets others pass.
func TestADelayedSagaHasItsPlaceFromItsAcceptance(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.register(lockedSteps)
	delayed := f.startLocked("k", f.clock.Now().Add(time.Minute))
	f.wantLock(delayed.ID, saga.LockWaiting, uuid.Nil, 0)
	first := f.startLocked("k", time.Time{})
	command := f.begins(first.ID)
	last := f.startLocked("k", time.Time{})
	f.clock.advance(time.Minute)
	testkit.Eventually(t, "the delayed saga is due", 30*time.Second, func() (bool, string) {
		f.clock.advance(time.Millisecond)
		return f.get(delayed.ID).WaitsFor == saga.ForLock, ""
	})
	f.wantLock(delayed.ID, saga.LockWaiting, first.ID, 1)
	f.wantLock(last.ID, saga.LockWaiting, first.ID, 2)
	f.answer(command, wire.Failed)
	f.answer(f.begins(delayed.ID), wire.Failed)
	f.begins(last.ID)
	f.verifyHistory()
}

// What ends as soon as it begins passes its lock on all the same.
func TestSagasThatEndAtOncePassTheirLockOn(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.register(lockedSteps)
	f.register("name: tell\nlock: input.key\nsteps: [{name: n, participant: p, action: tell, kind: notification}]")
	first := f.startLocked("k", time.Time{})
	command := f.begins(first.ID)
	var told []uuid.UUID
	for range 3 {
		s, err := f.c.Start(t.Context(), coordinator.StartRequest{Definition: "tell", Input: json.RawMessage(`{"key": "k"}`)})
		if err != nil {
			t.Fatal(err)
		}
		told = append(told, s.Saga.ID)
	}
	f.answer(command, wire.Failed)
	for _, id := range told {
		testkit.Eventually(t, "it has told", 30*time.Second, func() (bool, string) {
			f.clock.advance(time.Millisecond)
			return f.get(id).Status == saga.Completed, string(f.get(id).Status)
		})
	}
	s, err := f.c.Start(t.Context(), coordinator.StartRequest{Definition: "tell", Input: json.RawMessage(`{"key": "k"}`)})
	if err != nil || s.Saga.Status != saga.Completed {
		t.Fatalf("with the lock free it is %s: %v", s.Saga.Status, err)
	}
	if n := f.count(`SELECT count(*) FROM saga_lock`); n != 0 {
		t.Errorf("%d rows stay in saga_lock", n)
	}
	f.verifyHistory()
}

func TestAStartWithoutAKeyForItsLockIsRefused(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.register(lockedSteps)
	_, err := f.c.Start(t.Context(), coordinator.StartRequest{Definition: "locked", Input: json.RawMessage(`{"kee": "s3cret"}`)})
	var refused *coordinator.InputError
	if !errors.As(err, &refused) || !strings.Contains(err.Error(), "`input.key`") || strings.Contains(err.Error(), "s3cret") {
		t.Errorf("the start gives %v", err)
	}
	if n := f.count(`SELECT count(*) FROM saga`); n != 0 {
		t.Errorf("%d sagas were written", n)
	}
}

// Two servers start sagas of a few keys, answer them and cancel some, all at
// once: no two of a key ever run at the same time, all end, and no transaction
// waits for another that waits for it.
func TestLocksHoldUnderAnyConcurrencyAndNeverDeadlock(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.register(lockedSteps)
	servers := []*coordinator.Coordinator{f.c, f.coordinator(nil)}
	def, err := saga.Parse([]byte(lockedSteps))
	if err != nil {
		t.Fatal(err)
	}
	if err := servers[1].Register(t.Context(), def); err != nil {
		t.Fatal(err)
	}
	const n, keys = 60, 3
	ids := make([]uuid.UUID, n)
	var group sync.WaitGroup
	for i := range n {
		group.Go(func() {
			s, err := servers[i%2].Start(context.Background(), coordinator.StartRequest{
				Definition: "locked", Input: json.RawMessage(fmt.Sprintf(`{"key": "k%d"}`, i%keys)),
			})
			if err != nil {
				t.Error(err)
				return
			}
			if ids[i] = s.Saga.ID; i%5 == 0 {
				if _, err := servers[(i+1)%2].Cancel(context.Background(), ids[i], coordinator.Operation{Actor: "ada"}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	running := map[string]string{} // by key, the saga that runs
	keyOf := func(id string) string {
		return f.get(uuid.MustParse(id)).Lock.Key
	}
	testkit.Eventually(t, "all have ended", 2*time.Minute, func() (bool, string) {
		f.clock.advance(time.Millisecond)
		var deliveries []coordinator.Delivery
		for _, c := range f.commands() {
			key := keyOf(c.EffectID.Saga)
			if was := running[key]; was != "" && was != c.EffectID.Saga && !f.get(uuid.MustParse(was)).Ended() {
				t.Errorf("saga %s runs while saga %s holds %s", c.EffectID.Saga, was, key)
			}
			running[key] = c.EffectID.Saga
			deliveries = append(deliveries, reply(c, wire.Succeeded))
		}
		slices.Reverse(deliveries)
		if err := servers[len(deliveries)%2].HandleReplies(t.Context(), deliveries); err != nil {
			t.Error(err)
		}
		open := f.count(`SELECT count(*) FROM saga WHERE status NOT IN ('completed', 'compensated')`)
		return open == 0 && f.count(`SELECT count(*) FROM saga`) == n, fmt.Sprintf("%d are open", open)
	})
	group.Wait()
	if n := f.count(`SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()`); n != 0 {
		t.Errorf("%d deadlocks", n)
	}
	if n := f.count(`SELECT count(*) FROM saga_lock`); n != 0 {
		t.Errorf("%d rows stay in saga_lock", n)
	}
	f.verifyHistory()
}

// A saga without a lock pays nothing for it.
func TestASagaWithoutALockDoesNotTouchThem(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	s := f.start()
	f.answer(f.only(), wire.Failed)
	if got := f.get(s.ID); got.Lock != nil || got.Status != saga.Compensated {
		t.Fatalf("it is %s, with the lock %+v", got.Status, got.Lock)
	}
	if n := f.count(`SELECT pg_relation_size('saga_lock')`); n != 0 {
		t.Errorf("saga_lock has %d bytes", n)
	}
}

func TestSagasAreListedByTheirLock(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.register(lockedSteps)
	first, second := f.startLocked("k", time.Time{}), f.startLocked("k", time.Time{})
	f.startLocked("another", time.Time{})
	list, _, err := f.c.List(t.Context(), coordinator.SagaFilter{Lock: "k", Limit: 10})
	if err != nil || len(list) != 2 || list[0].ID != second.ID || list[1].ID != first.ID || list[0].Lock.Holder != first.ID {
		t.Errorf("the list is %+v: %v", list, err)
	}
}

// A bad start among others is set apart by trying again with fewer: what the
// first try granted is taken back.
func TestABadStartAmongLockedOnesFailsAlone(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.register(lockedSteps)
	var requests []coordinator.StartRequest
	for i := range 6 {
		r := coordinator.StartRequest{Definition: "locked", Input: json.RawMessage(`{"key": "k"}`),
			Order: &coordinator.Order{CustomerID: "c", Currency: "EUR", Total: "1.00"}}
		if i == 3 {
			r.Order.Currency = "no"
		}
		requests = append(requests, r)
	}
	for i, err := range f.queued(requests) {
		if (err != nil) != (i == 3) {
			t.Errorf("start %d: %v", i, err)
		}
	}
	if held, all := f.count(`SELECT count(*) FROM saga_lock WHERE held`), f.count(`SELECT count(*) FROM saga_lock`); held != 1 || all != 5 {
		t.Errorf("%d of %d hold the lock", held, all)
	}
	f.only()
	f.verifyHistory()
}

// P2: the holder ends while the start of the next one is being committed. Each
// must see the other, or nobody would hold the lock and one wait for it.
func TestNoLockIsLostBetweenAStartAndAnEnd(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.register(lockedSteps)
	first := f.startLocked("k", time.Time{})
	command := f.begins(first.ID)
	blocker, err := f.pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = blocker.Rollback(context.Background()) }()
	if _, err := blocker.Exec(t.Context(), `LOCK TABLE orders IN EXCLUSIVE MODE`); err != nil {
		t.Fatal(err)
	}
	waiting := func(n int) {
		t.Helper()
		testkit.Eventually(t, "they wait for each other", 30*time.Second, func() (bool, string) {
			got := f.count(`SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'`)
			return got == n, fmt.Sprintf("%d wait", got)
		})
	}
	var group sync.WaitGroup
	var second coordinator.Started
	group.Go(func() {
		var err error
		second, err = f.c.Start(context.Background(), coordinator.StartRequest{
			Definition: "locked", Input: json.RawMessage(`{"key": "k"}`), Order: &coordinator.Order{CustomerID: "c", Currency: "EUR", Total: "1.00"},
		})
		if err != nil {
			t.Error(err)
		}
	})
	waiting(1) // its place is taken, and not committed
	group.Go(func() {
		if err := f.c.HandleReplies(context.Background(), []coordinator.Delivery{reply(command, wire.Failed)}); err != nil {
			t.Error(err)
		}
	})
	waiting(2)
	if err := blocker.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	group.Wait()
	f.begins(second.Saga.ID)
	f.verifyHistory()
}

package coordinator_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/skald-saga/skald/internal/coordinator"
	"github.com/skald-saga/skald/internal/saga"
	"github.com/skald-saga/skald/internal/testkit"
)

func key(name string, body byte) *coordinator.IdempotencyKey {
	return &coordinator.IdempotencyKey{Principal: "p", Route: "r", Key: name, Fingerprint: [32]byte{body}}
}

// P8, with two servers.
func TestOneKeyMakesOneSagaUnderAnyConcurrency(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	servers := []*coordinator.Coordinator{f.c, f.coordinator(nil)}
	const callers = 100
	var (
		wg       sync.WaitGroup
		mu       sync.Mutex
		ids      = map[uuid.UUID]int{}
		replayed int
	)
	for i := range callers {
		wg.Go(func() {
			s, err := servers[i%2].Start(t.Context(), coordinator.StartRequest{Definition: "order", Input: json.RawMessage(`{}`), Key: key("k", 1)})
			if err != nil {
				t.Error(err)
				return
			}
			mu.Lock()
			defer mu.Unlock()
			ids[s.Saga.ID]++
			if s.Replayed {
				replayed++
			}
		})
	}
	wg.Wait()
	if len(ids) != 1 || replayed != callers-1 {
		t.Errorf("%d sagas, %d replays; want 1 and %d", len(ids), replayed, callers-1)
	}
	if n := f.count(`SELECT count(*) FROM saga`); n != 1 {
		t.Errorf("%d sagas are stored, want 1", n)
	}
	if n := len(f.commands()); n != 1 {
		t.Errorf("%d commands were written, want 1", n)
	}
}

// P8: a replay shows the saga as it now stands, and another request under the
// same key is refused.
func TestAKeyBelongsToOneRequest(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	start := func(k *coordinator.IdempotencyKey) (coordinator.Started, error) {
		return f.c.Start(t.Context(), coordinator.StartRequest{Definition: "order", Input: json.RawMessage(`{}`), Key: k})
	}
	first, err := start(key("k", 1))
	if err != nil || first.Replayed {
		t.Fatalf("first start: replayed %t, %v", first.Replayed, err)
	}
	f.answer(f.only(), "failed")
	again, err := start(key("k", 1))
	if err != nil || !again.Replayed || again.Saga.ID != first.Saga.ID || again.Saga.Status != saga.Compensated {
		t.Errorf("repetition: %+v, %v", again, err)
	}
	if _, err := start(key("k", 2)); !errors.Is(err, coordinator.ErrKeyReused) {
		t.Errorf("another request under the key: %v", err)
	}
	for name, other := range map[string]*coordinator.IdempotencyKey{
		"another principal": {Principal: "q", Route: "r", Key: "k"}, "another route": {Principal: "p", Route: "s", Key: "k"},
	} {
		if s, err := start(other); err != nil || s.Replayed {
			t.Errorf("%s: replayed %t, %v", name, s.Replayed, err)
		}
	}
}

// queued fills the queue of a coordinator that does not run yet, so that its
// first transaction holds all of requests.
func (f *fixture) queued(requests []coordinator.StartRequest) []error {
	f.t.Helper()
	reg := prometheus.NewRegistry()
	c := coordinator.New(coordinator.Config{Pool: f.pool, Now: f.clock.Now, Metrics: coordinator.NewMetrics(reg)})
	for _, text := range []string{threeSteps, lockedSteps} {
		def, err := saga.Parse([]byte(text))
		if err != nil {
			f.t.Fatal(err)
		}
		if err := c.Register(f.t.Context(), def); err != nil {
			f.t.Fatal(err)
		}
	}
	errs := make([]error, len(requests))
	var wg sync.WaitGroup
	for i, r := range requests {
		wg.Go(func() { _, errs[i] = c.Start(f.t.Context(), r) })
	}
	testkit.Eventually(f.t, "all starts are queued", 10*time.Second, func() (bool, string) {
		n := metric(f.t, reg, "saga_starts_waiting")
		return n == float64(len(requests)), fmt.Sprint(n)
	})
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- c.Run(ctx) }()
	wg.Wait()
	stop()
	if err := <-done; err != nil {
		f.t.Error(err)
	}
	return errs
}

func metric(t testing.TB, reg *prometheus.Registry, name string) float64 {
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, fam := range families {
		if fam.GetName() == name {
			m := fam.GetMetric()[0]
			return m.GetGauge().GetValue() + m.GetCounter().GetValue()
		}
	}
	return 0
}

// P10: one bad request in a batch fails alone. The batch also holds two with
// one key, of which one wins.
func TestABadStartFailsAloneInItsBatch(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	var requests []coordinator.StartRequest
	for i := range 12 {
		r := coordinator.StartRequest{Definition: "order", Input: json.RawMessage(`{}`),
			Order: &coordinator.Order{CustomerID: "c", Currency: "EUR", Total: "1.00"}}
		switch i {
		case 5:
			r.Order.Currency = "no"
		case 7, 8:
			r.Key = key("k", 1)
		}
		requests = append(requests, r)
	}
	errs := f.queued(requests)
	var input *coordinator.InputError
	for i, err := range errs {
		if bad := i == 5; bad != errors.As(err, &input) || (!bad && err != nil) {
			t.Errorf("start %d: %v", i, err)
		}
	}
	const want = 10 // without the bad one and one of those with the same key
	for _, table := range []string{"saga", "orders", "saga_history", "saga_timer", "outbox"} {
		if n := f.count(`SELECT count(*) FROM ` + table); n != want {
			t.Errorf("%d rows in %s, want %d", n, table, want)
		}
	}
	if n := f.count(`SELECT count(DISTINCT xid) FROM outbox`); n >= want {
		t.Errorf("%d transactions for %d starts: they were not coalesced", n, want)
	}
}

// P1: whatever part of a start cannot be written, nothing is.
func TestAStartIsWrittenCompletelyOrNotAtAll(t *testing.T) {
	t.Parallel()
	tables := []string{"saga", "orders", "saga_history", "saga_timer", "outbox", "idempotency_key"}
	for _, broken := range tables {
		t.Run(broken, func(t *testing.T) {
			t.Parallel()
			f := newFixture(t)
			f.breakTable(broken)
			request := coordinator.StartRequest{Definition: "order", Input: json.RawMessage(`{}`), Key: key("k", 1),
				Order: &coordinator.Order{CustomerID: "c", Currency: "EUR", Total: "1.00"}}
			if _, err := f.c.Start(t.Context(), request); err == nil {
				t.Fatal("the start succeeded")
			}
			for _, table := range tables {
				if n := f.count(`SELECT count(*) FROM ` + table); n != 0 {
					t.Errorf("%d rows in %s", n, table)
				}
			}
			f.mendTable(broken)
			if s, err := f.c.Start(t.Context(), request); err != nil || s.Replayed {
				t.Errorf("the repetition: replayed %t, %v", s.Replayed, err)
			}
		})
	}
}

// breakTable makes every insert into a table fail, for a reason that is not
// the data's.
func (f *fixture) breakTable(name string) {
	f.t.Helper()
	_, err := f.pool.Exec(f.t.Context(), `
		CREATE OR REPLACE FUNCTION broken() RETURNS trigger LANGUAGE plpgsql AS
		$$ BEGIN RAISE EXCEPTION 'disk on fire' USING ERRCODE = '58030'; END $$;
		CREATE TRIGGER broken BEFORE INSERT OR UPDATE ON `+name+` FOR EACH STATEMENT EXECUTE FUNCTION broken()`)
	if err != nil {
		f.t.Fatal(err)
	}
}

func (f *fixture) mendTable(name string) {
	f.t.Helper()
	if _, err := f.pool.Exec(f.t.Context(), `DROP TRIGGER broken ON `+name); err != nil {
		f.t.Fatal(err)
	}
}

// P11: what does not fit the queue is refused at once, and is not started.
func TestAFullQueueRefusesStarts(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	reg := prometheus.NewRegistry()
	c := coordinator.New(coordinator.Config{Pool: f.pool, StartQueue: 2, Metrics: coordinator.NewMetrics(reg)})
	def, err := saga.Parse([]byte(threeSteps))
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Register(t.Context(), def); err != nil {
		t.Fatal(err)
	}
	request := coordinator.StartRequest{Definition: "order", Input: json.RawMessage(`{}`)}
	waiting := make(chan error, 2)
	for range 2 {
		go func() { _, err := c.Start(context.Background(), request); waiting <- err }()
	}
	testkit.Eventually(t, "two wait", 10*time.Second, func() (bool, string) { return metric(t, reg, "saga_starts_waiting") == 2, "" })
	if _, err := c.Start(t.Context(), request); !errors.Is(err, coordinator.ErrOverloaded) {
		t.Errorf("the third: %v", err)
	}
	ctx, stop := context.WithCancel(context.Background())
	stop()
	if err := c.Run(ctx); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := <-waiting; err != nil && !errors.Is(err, coordinator.ErrStopped) {
			t.Errorf("a start that waited when the coordinator stopped: %v", err)
		}
	}
}

// A caller that goes away does not take its batch along.
func TestACallerThatGoesAwayDoesNotCancelTheBatch(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	blocker, err := f.pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = blocker.Rollback(context.Background()) }()
	if _, err := blocker.Exec(t.Context(), `LOCK TABLE saga IN SHARE MODE`); err != nil {
		t.Fatal(err)
	}
	request := coordinator.StartRequest{Definition: "order", Input: json.RawMessage(`{}`)}
	ctx, leave := context.WithCancel(t.Context())
	left := make(chan error, 1)
	go func() { _, err := f.c.Start(ctx, request); left <- err }()
	f.awaitLockWaits(1)
	leave()
	if err := <-left; !errors.Is(err, context.Canceled) {
		t.Fatalf("the caller that left got %v", err)
	}
	if err := blocker.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	testkit.Eventually(t, "the saga is stored", 10*time.Second, func() (bool, string) {
		n := f.count(`SELECT count(*) FROM saga`)
		return n == 1, fmt.Sprint(n)
	})
}

// awaitLockWaits waits until n sessions of this database wait for locks.
func (f *fixture) awaitLockWaits(n int) {
	f.t.Helper()
	testkit.Eventually(f.t, "sessions wait for locks", 20*time.Second, func() (bool, string) {
		got := f.count(`SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()`)
		return got >= n, fmt.Sprint(got)
	})
}

func TestAnUnknownDefinitionIsRefused(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	for _, r := range []coordinator.StartRequest{
		{Definition: "nothing", Input: json.RawMessage(`{}`)},
		{Definition: "order", Version: 99, Input: json.RawMessage(`{}`)},
	} {
		if _, err := f.c.Start(t.Context(), r); !errors.Is(err, coordinator.ErrUnknownDefinition) {
			t.Errorf("%s version %d: %v", r.Definition, r.Version, err)
		}
	}
}

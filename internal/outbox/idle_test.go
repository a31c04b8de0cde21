package outbox

import (
	"context"
	"testing"
	"time"

	"github.com/skald-saga/skald/internal/testkit"
	"github.com/skald-saga/skald/migrations"
)

// P12: a relay that has nothing to do asks one question per poll, polls at its
// slowest pace, and writes nothing.
func TestAnIdleRelayAsksLittleAndWritesNothing(t *testing.T) {
	t.Parallel()
	p := testkit.Cluster(t) // its own: elsewhere other tests are at work
	if err := migrations.Up(t.Context(), p.URL("postgres")); err != nil {
		t.Fatal(err)
	}
	queries, admin := &tracer{}, testkit.Pool(t, p.URL("postgres"))
	insert(t, admin, "k", "s")
	b := &broker{}
	relay := &Relay{Pool: tracedPool(t, p.URL("postgres"), queries), Publisher: b, Log: testkit.Log(t)}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- relay.Run(ctx) }()
	looks := func(n int) {
		t.Helper()
		testkit.Eventually(t, "the relay looks", time.Minute, func() (bool, string) {
			return queries.count(func(sql string) bool { return sql == firstPage }) >= n, "not often enough"
		})
	}
	looks(12)                                                                   // by now it has published the row and become slow
	version := `SELECT concat(snap_from, snap_to, pos, epoch) FROM outbox_lane` // its lease is written all the same
	before := ask[string](t, admin, version)
	queries.reset()
	start := time.Now()
	looks(8)
	if elapsed := time.Since(start); elapsed < 7*pollSlow*9/10 {
		t.Errorf("8 looks took %s, want no less than 7 times %s", elapsed, pollSlow)
	}
	if n := queries.count(func(sql string) bool { return sql != firstPage }); n > 1 { // a checkpoint may come in between
		t.Errorf("%d statements besides looking", n)
	}
	if after := ask[string](t, admin, version); after != before {
		t.Errorf("the position was written: %s, then %s", before, after)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	wantSubjects(t, "published", b.subjects(), "s")
}

// P12: transactions that have nothing to do with the outbox make the relay
// read, but not write.
func TestAnEmptyWindowIsNotWritten(t *testing.T) {
	t.Parallel()
	pool := testkit.Postgres(t)
	relay := newStepper(t, pool)
	insert(t, pool, "k", "s")
	relay.drain(t)
	version := `SELECT xmin::text || ' ' || ctid::text || ' ' || snap_from FROM outbox_lane`
	before := ask[string](t, pool, version)
	for range 5 {
		ask[string](t, pool, `SELECT pg_current_xact_id()::text`)
		if n := relay.pass(t); n != 0 {
			t.Fatalf("%d rows left", n)
		}
	}
	if after := ask[string](t, pool, version); after != before {
		t.Errorf("the position was written: %s, then %s", before, after)
	}
	insert(t, pool, "k", "more")
	relay.drain(t)
	wantSubjects(t, "published", relay.broker.subjects(), "s", "more")
}

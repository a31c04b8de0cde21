package outbox

import (
	"slices"
	"testing"
	"time"

	"github.com/skald-saga/skald/internal/embedded"
	"github.com/skald-saga/skald/internal/testkit"
	"github.com/skald-saga/skald/migrations"
)

// pair is a primary and its standby.
type pair struct{ primary, standby *embedded.Postgres }

func newPair(t *testing.T) pair {
	t.Helper()
	primary := testkit.Cluster(t)
	if err := migrations.Up(t.Context(), primary.URL("postgres")); err != nil {
		t.Fatal(err)
	}
	standby, err := primary.Standby(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := standby.Stop(); err != nil {
			t.Error(err)
		}
	})
	return pair{primary, standby}
}

// failOver kills the primary, makes a primary of the standby and points the
// relay, with all that it remembers, to that.
func (p pair) failOver(t *testing.T, relay *stepper) {
	t.Helper()
	p.primary.Kill()
	pool := testkit.Pool(t, p.standby.URL("postgres"))
	if !ask[bool](t, pool, `SELECT pg_promote()`) {
		t.Fatal("the standby was not promoted")
	}
	relay.Pool, relay.reader = pool, movedTo(relay.reader, pool)
}

// P9: a failover to a synchronous standby loses nothing that was committed, and
// has published nothing that was not.
func TestAFailoverToASynchronousStandbyLosesNothing(t *testing.T) {
	t.Parallel()
	p := newPair(t)
	pool := testkit.Pool(t, p.primary.URL("postgres"))
	execute(t, pool, `ALTER SYSTEM SET synchronous_standby_names = '*'`)
	execute(t, pool, `SELECT pg_reload_conf()`)
	testkit.Eventually(t, "commits wait for the standby", 30*time.Second, func() (bool, string) {
		states := askAll[string](t, pool, `SELECT sync_state FROM pg_stat_replication`)
		return slices.Equal(states, []string{"sync"}) && ask[string](t, pool, `SHOW synchronous_standby_names`) == "*", ""
	})
	relay := newStepper(t, pool, limits{rows: 3, bytes: 1 << 20, list: 100})
	want := numbered("s", 12)
	for i, subject := range want[:10] {
		insert(t, pool, "k", subject)
		if i == 4 {
			relay.pass(t) // it has begun a window
		}
	}
	relay.pass(t)

	p.failOver(t, relay)
	execute(t, relay.Pool, `ALTER SYSTEM SET synchronous_standby_names = ''`) // the new primary has no standby yet
	execute(t, relay.Pool, `SELECT pg_reload_conf()`)
	for _, subject := range want[10:] {
		insert(t, relay.Pool, "k", subject)
	}
	relay.drain(t)
	var got []string
	for _, subject := range relay.broker.subjects() {
		if !slices.Contains(got, subject) { // a move of the position need not have reached the standby
			got = append(got, subject)
		}
	}
	wantSubjects(t, "published first", got, want...)
}

// P9: a failover to an asynchronous standby takes back commits whose messages
// have left. What the new primary has is published all the same, although it
// gives out again numbers and transaction ids that the relay has seen.
func TestAFailoverToAStandbyThatLagsLosesNothingThatItHas(t *testing.T) {
	t.Parallel()
	p := newPair(t)
	pool := testkit.Pool(t, p.primary.URL("postgres"))
	relay := newStepper(t, pool)
	insert(t, pool, "k", "kept")
	relay.drain(t)
	end := ask[string](t, pool, `SELECT pg_current_wal_flush_lsn()::text`)
	follower := testkit.Pool(t, p.standby.URL("postgres"))
	testkit.Eventually(t, "the standby has it", 30*time.Second, func() (bool, string) {
		at := ask[string](t, follower, `SELECT pg_last_wal_receive_lsn()::text`)
		return ask[bool](t, follower, `SELECT $1::pg_lsn >= $2::pg_lsn`, at, end), at
	})
	p.standby.Kill() // it hears nothing of what follows
	lost := numbered("lost", 5)
	for _, subject := range lost {
		insert(t, pool, "k", subject)
	}
	relay.drain(t)
	used := ask[int64](t, pool, `SELECT max(seq) FROM outbox`)
	if err := p.standby.Start(t.Context()); err != nil {
		t.Fatal(err)
	}

	p.failOver(t, relay)
	if n := ask[int64](t, relay.Pool, `SELECT count(*) FROM outbox`); n != 1 {
		t.Fatalf("the standby has %d rows: nothing was lost", n)
	}
	insert(t, relay.Pool, "k", "new")
	if again := ask[int64](t, relay.Pool, `SELECT max(seq) FROM outbox`); again > used+32 { // sequences are logged so many ahead
		t.Fatalf("the new row has number %d, and %d was seen before", again, used)
	}
	relay.drain(t)
	got := relay.broker.subjects()
	for _, subject := range append([]string{"kept", "new"}, lost...) {
		if !slices.Contains(got, subject) {
			t.Errorf("%s was not published: %q", subject, got)
		}
	}
}

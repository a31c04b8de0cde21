package outbox

import (
	"slices"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

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

// failOver makes a primary of the standby and points the relay, with all that
// it remembers, to that. The primary is dead.
func (p pair) failOver(t *testing.T, relay *stepper) {
	t.Helper()
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

	p.primary.Kill()
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
	for name, lost := range map[string][]string{"messages are lost": numbered("lost", 5), "transactions of others are lost": nil} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := newPair(t)
			pool := testkit.Pool(t, p.primary.URL("postgres"))
			relay := newStepper(t, pool)
			insert(t, pool, "k", "kept")
			relay.drain(t)
			p.leaveBehind(t, pool)
			for _, subject := range lost {
				insert(t, pool, "k", subject)
			}
			for range 50 {
				ask[string](t, pool, `SELECT pg_current_xact_id()::text`)
			}
			execute(t, pool, `CHECKPOINT`) // all of it is on disk, here
			relay.drain(t)
			seen := ask[int64](t, pool, `SELECT pg_snapshot_xmax(pg_current_snapshot())::text::bigint`)
			p.primary.Kill() // before the standby can ask it what it has missed
			if err := p.standby.Start(t.Context()); err != nil {
				t.Fatal(err)
			}

			p.failOver(t, relay)
			if n := ask[int64](t, relay.Pool, `SELECT count(*) FROM outbox`); n != 1 {
				t.Fatalf("the standby has %d rows: nothing was lost", n)
			}
			insert(t, relay.Pool, "k", "new")
			if again := ask[int64](t, relay.Pool, `SELECT max(xid::text::bigint) FROM outbox`); again >= seen {
				t.Fatalf("the new row has transaction id %d, and only those below %d were seen before", again, seen)
			}
			relay.drain(t)
			got := relay.broker.subjects()
			for _, subject := range append([]string{"kept", "new"}, lost...) {
				if !slices.Contains(got, subject) {
					t.Errorf("%s was not published: %q", subject, got)
				}
			}
		})
	}
}

// leaveBehind waits until the standby has all that there is, and then keeps it
// from hearing of what follows.
func (p pair) leaveBehind(t *testing.T, pool *pgxpool.Pool) {
	t.Helper()
	end := ask[string](t, pool, `SELECT pg_current_wal_insert_lsn()::text`)
	follower := testkit.Pool(t, p.standby.URL("postgres"))
	testkit.Eventually(t, "the standby has it", 30*time.Second, func() (bool, string) {
		at := ask[string](t, follower, `SELECT coalesce(pg_last_wal_receive_lsn(), '0/0')::text`)
		return ask[bool](t, follower, `SELECT $1::pg_lsn >= $2::pg_lsn`, at, end), at
	})
	p.standby.Kill()
}

package main

import (
	"fmt"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/skald-saga/skald/internal/testkit"
)

// withLanes returns a database with an outbox of so many lanes.
func withLanes(t testing.TB, lanes int) (url string, pool *pgxpool.Pool) {
	t.Helper()
	url = testkit.DatabaseURL(t)
	pool = testkit.Pool(t, url)
	if _, err := pool.Exec(t.Context(), `SELECT outbox_set_lanes($1)`, lanes); err != nil {
		t.Fatal(err)
	}
	return url, pool
}

// awaitOwners waits until so many relays hold all lanes, none of them one that
// is named.
func awaitOwners(t testing.TB, pool *pgxpool.Pool, owners int, but ...string) (names []string) {
	t.Helper()
	testkit.Eventually(t, fmt.Sprintf("%d owners", owners), 2*time.Minute, func() (bool, string) {
		rows, err := pool.Query(t.Context(), `SELECT DISTINCT coalesce(owner, '') FROM outbox_lane WHERE owner <> ALL ($1) ORDER BY 1`, append([]string{""}, but...))
		if err != nil {
			t.Fatal(err)
		}
		if names, err = pgx.CollectRows(rows, pgx.RowTo[string]); err != nil {
			t.Fatal(err)
		}
		var others int
		if err := pool.QueryRow(t.Context(), `SELECT count(*) FROM outbox_lane WHERE owner IS NULL OR owner = ANY ($1)`, append([]string{}, but...)).Scan(&others); err != nil {
			t.Fatal(err)
		}
		return len(names) == owners && others == 0, fmt.Sprint(names)
	})
	return names
}

// now is the time on the database's clock.
func now(t testing.TB, pool *pgxpool.Pool) (at time.Time) {
	t.Helper()
	if err := pool.QueryRow(t.Context(), `SELECT clock_timestamp()`).Scan(&at); err != nil {
		t.Fatal(err)
	}
	return at
}

// taken is when the latest owner of a lane came, on the database's clock. It
// must be asked before that owner renews its lease.
func taken(t testing.TB, pool *pgxpool.Pool, lease time.Duration) (at time.Time) {
	t.Helper()
	if err := pool.QueryRow(t.Context(), `SELECT max(lease_until) FROM outbox_lane`).Scan(&at); err != nil {
		t.Fatal(err)
	}
	return at.Add(-lease)
}

// Lanes are handed over long before their leases run out if a relay is told to
// stop, and also if it is killed and another on this machine can see that; if
// it only does not go on, when its leases have run out.
func TestLanesAreHandedOver(t *testing.T) {
	t.Parallel()
	const lease = 20 * time.Second
	for name, c := range map[string]struct {
		signal syscall.Signal
		lease  time.Duration
		within time.Duration
	}{
		"on SIGTERM":          {syscall.SIGTERM, lease, lease / 4},
		"on kill -9":          {syscall.SIGKILL, lease, lease / 4},
		"of one that is hung": {syscall.SIGSTOP, 3 * time.Second, 3*time.Second + lease/4},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			broker := testkit.NATS(t).URL()
			db, pool := withLanes(t, 4)
			s := stream(t, broker)
			first := start(t, db, broker, "--lease", c.lease.String())
			old := awaitOwners(t, pool, 1)
			start(t, db, broker, "--lease", c.lease.String())
			awaitOwners(t, pool, 2)
			var ids []string
			for n := range 20 {
				ids = append(ids, insert(t, pool, strconv.Itoa(n), "s.a"))
			}
			began := now(t, pool)
			if err := first.cmd.Process.Signal(c.signal); err != nil {
				t.Fatal(err)
			}
			awaitOwners(t, pool, 1, old...)
			took := taken(t, pool, c.lease).Sub(began)
			t.Logf("%s after the signal", took)
			if took > c.within {
				t.Errorf("the lanes were handed over %s after the signal, want at most %s", took, c.within)
			}
			for n := range 20 {
				ids = append(ids, insert(t, pool, strconv.Itoa(n), "s.a"))
			}
			awaitIDs(t, s, ids...)
		})
	}
}

// P9, I6: a relay that is stopped in the middle of its work for longer than its
// lease, and then goes on, can publish again what another has published
// meanwhile. It loses nothing, reorders nothing, and moves no position.
func TestAZombieCausesDuplicatesAndNothingElse(t *testing.T) {
	t.Parallel()
	broker := testkit.NATS(t).URL()
	db, pool := withLanes(t, 2)
	s := stream(t, broker)
	const lease = 2 * time.Second
	zombie := start(t, db, broker, "--lease", lease.String())
	old := awaitOwners(t, pool, 1)
	var writer sync.WaitGroup
	stop := make(chan struct{})
	var ids []string
	writer.Go(func() { // it goes on all the time: somewhere in it the zombie stops and goes on
		for n := 0; ; n++ {
			select {
			case <-stop:
				return
			default:
				ids = append(ids, insert(t, pool, strconv.Itoa(n%7), "s."+strconv.Itoa(n)))
			}
		}
	})
	for range 2 {
		if err := zombie.cmd.Process.Signal(syscall.SIGSTOP); err != nil {
			t.Fatal(err)
		}
		heir := start(t, db, broker, "--lease", lease.String())
		heirs := awaitOwners(t, pool, 1, old...)
		if err := zombie.cmd.Process.Signal(syscall.SIGCONT); err != nil {
			t.Fatal(err)
		}
		awaitOwners(t, pool, 2) // it has noticed, and shares
		if code := heir.stop(t, syscall.SIGTERM); code != 0 {
			t.Errorf("exit status %d", code)
		}
		old = awaitOwners(t, pool, 1, heirs...)
	}
	close(stop)
	writer.Wait()
	awaitIDs(t, s, ids...)
	inOrder(t, s)
	testkit.Eventually(t, "all to be noted", time.Minute, func() (bool, string) {
		var open int
		if err := pool.QueryRow(t.Context(), `SELECT count(*) FROM outbox o JOIN outbox_lane l USING (lane) WHERE NOT pg_visible_in_snapshot(o.xid, l.snap_from)`).Scan(&open); err != nil {
			t.Fatal(err)
		}
		return open == 0, fmt.Sprintf("%d rows are not", open)
	})
}

// inOrder looks at the order of each key, which is the number in the subject
// modulo seven.
func inOrder(t *testing.T, s jetstream.Stream) {
	t.Helper()
	latest := map[int]int{}
	for seq := range s.CachedInfo().State.LastSeq {
		m, err := s.GetMsg(t.Context(), seq+1)
		if err != nil {
			t.Fatal(err)
		}
		n, err := strconv.Atoi(m.Subject[2:])
		if err != nil {
			t.Fatal(err)
		}
		if before, ok := latest[n%7]; ok && n != before+7 {
			t.Errorf("key %d: after %d comes %d", n%7, before, n)
		}
		latest[n%7] = n
	}
}

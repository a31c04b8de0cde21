package outbox

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/skald-saga/skald/internal/testkit"
)

// withLanes returns an outbox with so many lanes.
func withLanes(t testing.TB, lanes int) *pgxpool.Pool {
	t.Helper()
	pool := testkit.Postgres(t)
	execute(t, pool, `SELECT outbox_set_lanes($1)`, lanes)
	return pool
}

// keyOf returns a key of a lane, of four.
func keyOf(lane int16) string {
	for n := 0; ; n++ {
		if key := strconv.Itoa(n); int16(sha256.Sum256([]byte(key))[0]%4) == lane {
			return key
		}
	}
}

// P9: a key has the same lane for ever, whoever writes and wherever; and no row
// can be in a lane that nobody would look at.
func TestALaneFollowsFromTheKey(t *testing.T) {
	t.Parallel()
	pool := withLanes(t, 4)
	for key, want := range map[string]int16{"": 3, "i-42": 3, "Zürich": 2, "i-1": 1, "0198f6c2-7c1e-7cc3-8f6b-1f4f7e3b0a00": 3} {
		if here := int16(sha256.Sum256([]byte(key))[0] % 4); here != want {
			t.Errorf("key %q: lane %d by our hash, want %d", key, here, want)
		}
		insert(t, pool, key, "s")
		if got := ask[int16](t, pool, `SELECT lane FROM outbox WHERE key = $1`, key); got != want {
			t.Errorf("key %q: written to lane %d, want %d", key, got, want)
		}
	}
	for lanes, db := range map[int]*pgxpool.Pool{4: pool, 1: testkit.Postgres(t)} {
		if _, err := db.Exec(t.Context(), `INSERT INTO outbox (lane, key, subject, payload) VALUES (1, 'k', 's', '')`); err == nil {
			t.Errorf("with %d lanes a writer could choose one", lanes)
		}
	}
	if err := Check(t.Context(), pool); err != nil {
		t.Error(err)
	}
	execute(t, pool, `DELETE FROM outbox_lane WHERE lane = 2`)
	if err := Check(t.Context(), pool); !errors.Is(err, ErrNoOutbox) {
		t.Errorf("with a lane missing: got %v, want %v", err, ErrNoOutbox)
	}
}

// P9: the number of lanes changes only when every message was published, since
// the next one of a key may be in another lane then.
func TestTheNumberOfLanesChangesOnlyBetweenMessages(t *testing.T) {
	t.Parallel()
	pool := testkit.Postgres(t)
	insert(t, pool, "k", "s.0")
	for _, sql := range []string{`SELECT outbox_set_lanes(4)`, `SELECT outbox_set_lanes(0)`, `SELECT outbox_set_lanes(65)`} {
		if _, err := pool.Exec(t.Context(), sql); err == nil {
			t.Errorf("%s: no error", sql)
		}
	}
	newStepper(t, pool).drain(t)
	for i, lanes := range []int{4, 7, 1} {
		execute(t, pool, `SELECT outbox_set_lanes($1)`, lanes)
		if err := Check(t.Context(), pool); err != nil {
			t.Error(err)
		}
		want := numbered(fmt.Sprint("lanes", i), 20)
		for _, subject := range want {
			insert(t, pool, subject, subject)
		}
		relay := newStepper(t, pool)
		relay.drain(t)
		wantSubjects(t, "published", relay.broker.subjects(), want...)
	}
}

// For a relay that has all lanes, several are no more work than one: they are
// read, published and noted together.
func TestLanesOfOneRelayAreReadAsOne(t *testing.T) {
	t.Parallel()
	statements := map[int]int{}
	for _, lanes := range []int{1, 4} {
		url, queries := testkit.DatabaseURL(t), &tracer{}
		writer := testkit.Pool(t, url)
		execute(t, writer, `SELECT outbox_set_lanes($1)`, lanes)
		relay := newStepper(t, tracedPool(t, url, queries))
		relay.drain(t)
		relay.sweep(t) // nothing is parked
		queries.reset()
		for round := range 3 {
			for _, subject := range numbered(fmt.Sprint("s", round), 40) {
				insert(t, writer, subject, subject)
			}
			relay.pass(t)
		}
		statements[lanes] = queries.count(func(sql string) bool { // whether to flush depends on others in the cluster
			return sql == firstPage || !strings.Contains(sql, "flush") && !strings.Contains(sql, "SET pos = pos")
		})
		if n := len(relay.broker.offers); n != 3 {
			t.Errorf("%d lanes: %d pages, want 3", lanes, n)
		}
		if n := ask[int](t, writer, `SELECT count(DISTINCT snap_from::text) FROM outbox_lane`); n != 1 {
			t.Errorf("%d lanes: they stand at %d places", lanes, n)
		}
	}
	if statements[4] != statements[1] || statements[1] != 6 {
		t.Errorf("statements by number of lanes: %v, want 6 for 3 pages", statements)
	}
}

// P9: lanes that come together from different relays stand apart, in the middle
// of windows even. They meet, and nothing is lost or repeated.
func TestLanesThatStandApartMeet(t *testing.T) {
	t.Parallel()
	pool := withLanes(t, 4)
	b := &broker{}
	var want []string
	write := func(n int) {
		for i := range n {
			subject := fmt.Sprintf("s.%d", len(want))
			insert(t, pool, keyOf(int16(i%4)), subject)
			want = append(want, subject)
		}
	}
	for lane := range int16(4) { // four relays, which get so far
		write(16)
		rd := newReader(t, pool, limits{rows: 3, bytes: 1000, list: 3})
		rd.lease.owner = fmt.Sprint("relay", lane)
		execute(t, pool, `UPDATE outbox_lane SET owner = $1 WHERE lane = $2`, rd.lease.owner, lane)
		one := &stepper{&Relay{Pool: pool, Publisher: b, Log: testkit.Log(t), Metrics: NewMetrics(nil)}, rd, b}
		for range lane {
			one.pass(t)
		}
	}
	execute(t, pool, `UPDATE outbox_lane SET owner = 'stepper'`)
	relay := newStepper(t, pool, limits{rows: 3, bytes: 1000, list: 3})
	relay.broker, relay.Publisher = b, b
	relay.pass(t)
	if groups := relay.groups(); len(groups) < 3 {
		t.Fatalf("the lanes stand at %d places: nothing is tried", len(groups))
	}
	write(4)
	relay.drain(t)
	if groups := relay.groups(); len(groups) != 1 {
		t.Errorf("the lanes still stand at %d places", len(groups))
	}
	got := b.subjects()
	for lane := range int16(4) {
		var ours, inOrder []string
		for _, r := range b.taken {
			if r.Lane == lane {
				ours = append(ours, r.Subject)
			}
		}
		for i, subject := range want {
			if int16(i%4) == lane {
				inOrder = append(inOrder, subject)
			}
		}
		wantSubjects(t, fmt.Sprint("lane ", lane), ours, inOrder...)
	}
	if len(got) != len(want) {
		t.Errorf("%d published, want %d", len(got), len(want))
	}
}

// I6: a relay that was stopped for longer than its lease, and whose lanes were
// taken, moves nothing and sets nothing aside, whatever it has published; what
// it has of other lanes it still settles.
func TestWhoHasLostALaneCanSettleNothingInIt(t *testing.T) {
	t.Parallel()
	for name, all := range map[string]bool{"all lanes were taken": true, "one lane was taken": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			pool := withLanes(t, 4)
			zombie := newStepper(t, pool)
			for lane := range int16(4) {
				insert(t, pool, keyOf(lane), fmt.Sprint("bad", lane))
			}
			p, err := zombie.next(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			// The next owner is at the same place: only the lease tells.
			execute(t, pool, `UPDATE outbox_lane SET lease_until = clock_timestamp() - interval '1 ms' WHERE $1 OR lane = 1`, all)
			heir := newReader(t, pool)
			execute(t, pool, `UPDATE outbox_lane SET owner = 'heir' WHERE epoch = 2`)
			heir.lease.owner = "heir"
			poison := slices.Repeat([]Result{{Err: errAway, Poison: true}}, 4)
			_, dead, _ := judge(p.rows, poison, false)
			err = zombie.settle(t.Context(), p, 4, dead)
			letters := askAll[string](t, pool, `SELECT subject FROM outbox_dead ORDER BY seq`)
			if all {
				if !errors.Is(err, errMoved) || len(letters) != 0 {
					t.Errorf("got %v and dead letters %q", err, letters)
				}
			} else {
				wantSubjects(t, "dead letters", letters, "bad0", "bad2", "bad3")
				if err != nil || !slices.Equal(zombie.held(), []int16{0, 2, 3}) {
					t.Errorf("got %v, and it holds %v", err, zombie.held())
				}
			}
			next := newStepper(t, pool)
			next.reader = heir
			next.drain(t)
			if want := map[bool][]string{true: {"bad0", "bad1", "bad2", "bad3"}, false: {"bad1"}}[all]; !slices.Equal(next.broker.subjects(), want) {
				t.Errorf("the next owner published %q, want %q", next.broker.subjects(), want)
			}
		})
	}
}

// A relay that finds its lease run out - it was stopped, or reading took long -
// publishes nothing before it has looked again.
func TestNothingIsPublishedAfterTheLeaseRanOut(t *testing.T) {
	t.Parallel()
	pool := testkit.Postgres(t)
	relay := newStepper(t, pool)
	relay.drain(t)
	insert(t, pool, "k", "s")
	relay.lease.ttl = -time.Hour // what is granted has run out
	if n, err := relay.Relay.pass(t.Context(), relay.reader); n != 0 || !errors.Is(err, errLapsed) {
		t.Errorf("got %d and %v, want %v", n, err, errLapsed)
	}
	wantSubjects(t, "published", relay.broker.subjects())
	relay.lease.ttl = time.Hour
	relay.drain(t)
	wantSubjects(t, "when it has looked again", relay.broker.subjects(), "s")
}

// A page that takes longer than a lease does not cost the relay its lanes.
func TestALeaseIsRenewedWhileAPageIsPublished(t *testing.T) {
	t.Parallel()
	pool := testkit.Postgres(t)
	insert(t, pool, "k", "s")
	published, hold := make(chan bool), make(chan bool)
	slow := &broker{answer: func(rows []Row) []Result {
		close(published)
		<-hold
		return make([]Result, len(rows))
	}}
	const ttl = 300 * time.Millisecond
	stop := startRelay(t, &Relay{Pool: pool, Publisher: slow, Log: testkit.Log(t), Lease: ttl})
	<-published
	heir := &broker{}
	stopHeir := startRelay(t, &Relay{Pool: pool, Publisher: heir, Log: testkit.Log(t), Lease: ttl})
	began := ask[time.Time](t, pool, `SELECT lease_until FROM outbox_lane`)
	testkit.Eventually(t, "many leases pass", time.Minute, func() (bool, string) {
		until := ask[time.Time](t, pool, `SELECT lease_until FROM outbox_lane`)
		return until.Sub(began) > 5*ttl, until.String()
	})
	close(hold)
	stop()
	stopHeir()
	wantSubjects(t, "the other relay", heir.subjects())
	if epoch := ask[int](t, pool, `SELECT epoch FROM outbox_lane`); epoch > 2 { // the heir's is the second, after the stop
		t.Errorf("the lane had %d owners", epoch)
	}
}

// startRelay runs a relay until the returned function is called.
func startRelay(t testing.TB, r *Relay) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(stop)
	return stop
}

// Relays share the lanes evenly, whoever comes and goes. When all stop as they
// are told, each message was published once.
func TestRelaysShareTheLanes(t *testing.T) {
	t.Parallel()
	pool := withLanes(t, 4)
	b := &broker{}
	wake := make([]chan struct{}, 5)
	freed := func() {
		for _, w := range wake {
			select {
			case w <- struct{}{}:
			default:
			}
		}
	}
	stops := make([]func(), len(wake))
	for i := range wake {
		wake[i] = make(chan struct{}, 1)
	}
	n := 0
	shares := func(want ...int) {
		t.Helper()
		testkit.Eventually(t, fmt.Sprintf("shares %v", want), time.Minute, func() (bool, string) {
			insert(t, pool, strconv.Itoa(n), "s")
			n++
			got := askAll[int](t, pool, `SELECT count(*) FROM outbox_lane WHERE lease_until > clock_timestamp() GROUP BY owner ORDER BY 1 DESC`)
			return slices.Equal(got, want), fmt.Sprint(got)
		})
	}
	start := func(i int) {
		stops[i] = startRelay(t, &Relay{Pool: pool, Publisher: b, Log: testkit.Log(t), Wake: wake[i], Freed: freed, Lease: 10 * time.Second})
	}
	start(0)
	shares(4)
	start(1)
	shares(2, 2)
	start(2)
	start(3)
	start(4) // five relays, four lanes
	shares(1, 1, 1, 1)
	stops[0]()
	stops[1]()
	stops[2]()
	shares(2, 2)
	stops[3]()
	shares(4)
	testkit.Eventually(t, "all to be published", time.Minute, func() (bool, string) {
		got := len(b.subjects())
		return got >= n, fmt.Sprintf("%d of %d", got, n)
	})
	stops[4]()
	if got := len(b.subjects()); got != n {
		t.Errorf("%d messages were published %d times", n, got)
	}
	if held := ask[int](t, pool, `SELECT count(*) FROM outbox_lane WHERE owner IS NOT NULL`); held != 0 {
		t.Errorf("%d lanes are still held", held)
	}
}

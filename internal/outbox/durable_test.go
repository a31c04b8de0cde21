package outbox

import (
	"context"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/skald-saga/skald/internal/embedded"
	"github.com/skald-saga/skald/internal/testkit"
	"github.com/skald-saga/skald/migrations"
)

// lazyCluster starts a cluster that leaves what is not committed synchronously
// in memory for long: no background process flushes the write-ahead log.
func lazyCluster(t testing.TB) *embedded.Postgres {
	t.Helper()
	p, err := embedded.StartPostgres(t.Context(), embedded.PostgresConfig{Durable: true, Params: map[string]string{
		"wal_writer_delay": "10s", "wal_writer_flush_after": "0", "wal_level": "minimal", "max_wal_senders": "0",
		"autovacuum": "off", "shared_buffers": "32MB",
	}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Stop(); err != nil {
			t.Error(err)
		}
	})
	if err := migrations.Up(t.Context(), p.URL("postgres")); err != nil {
		t.Fatal(err)
	}
	return p
}

// lazily returns a pool whose commits are not on disk when they return.
func lazily(t testing.TB, p *embedded.Postgres) *pgxpool.Pool {
	return testkit.Pool(t, p.URL("postgres")+"&synchronous_commit=off")
}

const flushedPast = `SELECT pg_current_wal_flush_lsn() >= $1::pg_lsn`

// P9: a row whose commit can be seen but is not on disk yet is not handed to
// the broker before it is.
func TestARowIsNotPublishedBeforeItIsOnDisk(t *testing.T) {
	t.Parallel()
	p := lazyCluster(t)
	pool, lazy := testkit.Pool(t, p.URL("postgres")), lazily(t, p)
	relay := newStepper(t, pool)
	var lsn string
	relay.broker.answer = func(rows []Row) []Result {
		if !ask[bool](t, pool, flushedPast, lsn) {
			t.Errorf("%q was handed over before it was on disk", subjects(rows))
		}
		return make([]Result, len(rows))
	}
	proven := 0
	for i := range 10 {
		insert(t, lazy, "k", fmt.Sprint(i))
		lsn = ask[string](t, lazy, `SELECT pg_current_wal_insert_lsn()::text`)
		if !ask[bool](t, pool, flushedPast, lsn) {
			proven++ // the row can be seen, and is not on disk
		}
		relay.drain(t)
	}
	wantSubjects(t, "published", relay.broker.subjects(), "0", "1", "2", "3", "4", "5", "6", "7", "8", "9")
	if proven == 0 {
		t.Error("every row was on disk at once: nothing was tested")
	}
}

// P12: the pages of one window wait for the disk once, not each for the note
// that the one before was published.
func TestTheRestOfAWindowDoesNotWaitForTheDisk(t *testing.T) {
	t.Parallel()
	p, queries := lazyCluster(t), &tracer{}
	lazy := lazily(t, p)
	relay := newStepper(t, tracedPool(t, p.URL("postgres"), queries), limits{rows: 2, bytes: 1 << 20, list: 100})
	want := numbered("s", 12)
	for _, subject := range want {
		insert(t, lazy, "k", subject)
	}
	relay.drain(t)
	wantSubjects(t, "published", relay.broker.subjects(), want...)
	if n := queries.count(func(sql string) bool { return strings.Contains(sql, "SET pos = pos") }); n != 1 {
		t.Errorf("%d flushes for one window of six pages", n)
	}
}

// P9: what a transaction that goes on for long has written is not on disk, and
// nobody is about to flush it. That must not hold up what was committed.
func TestAnUnfinishedWriteDoesNotHoldUpWhatIsOnDisk(t *testing.T) {
	t.Parallel()
	p := lazyCluster(t)
	pool := testkit.Pool(t, p.URL("postgres"))
	relay := newStepper(t, pool)
	insert(t, pool, "k", "s")
	long := begin(t, pool)
	execute(t, long, `CREATE TABLE elsewhere AS SELECT 1`)
	end := ask[string](t, pool, `SELECT pg_current_wal_insert_lsn()::text`)
	if ask[bool](t, pool, flushedPast, end) {
		t.Fatal("the unfinished write is on disk: nothing is tested")
	}
	// Nobody else flushes for seconds; the limit is far below that.
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	if _, err := relay.Relay.pass(ctx, relay.reader); err != nil {
		t.Fatalf("the relay waits for what is not committed: %v", err)
	}
	wantSubjects(t, "published", relay.broker.subjects(), "s")
}

// P9: after a crash the table still holds all that was ever published, although
// the writers do not wait for the disk.
func TestACrashTakesBackNothingThatWasPublished(t *testing.T) {
	t.Parallel()
	p := lazyCluster(t)
	published := map[int64]bool{}
	for round := range 3 {
		pool, lazy := testkit.Pool(t, p.URL("postgres")), lazily(t, p)
		relay := newStepper(t, pool)
		var stop atomic.Bool
		stopped := make(chan struct{})
		go func() { // it writes until the crash
			defer close(stopped)
			for n := 0; !stop.Load(); n++ {
				if _, err := lazy.Exec(context.Background(), `SELECT outbox_append('k', $1, '{}', '')`, fmt.Sprintf("%d.%d", round, n)); err != nil {
					return
				}
			}
		}()
		for len(relay.broker.taken) < 300 {
			relay.pass(t)
		}
		p.Kill()
		stop.Store(true)
		<-stopped
		for _, r := range relay.broker.taken {
			published[r.Seq] = true
		}
		if err := p.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	kept := map[int64]bool{}
	for _, seq := range askAll[int64](t, testkit.Pool(t, p.URL("postgres")), `SELECT seq FROM outbox`) {
		kept[seq] = true
	}
	for seq := range published {
		if !kept[seq] {
			t.Errorf("row %d was published and is gone", seq)
		}
	}
}

// P9: Postgres forgets in a crash which transaction ids it gave out for what
// was not on disk, and gives them out again. Rows of theirs are not lost.
func TestTransactionIDsThatAreUsedAgainAfterACrashLoseNothing(t *testing.T) {
	t.Parallel()
	p := lazyCluster(t)
	relay := newStepper(t, testkit.Pool(t, p.URL("postgres")))
	var want []string
	for attempt, usedAgain := 0, false; !usedAgain; attempt++ { // on a slow machine everything may be on disk before the crash
		if attempt == 5 {
			t.Fatal("no transaction id was used again: nothing was tested")
		}
		lazy := lazily(t, p)
		relay.drain(t)
		ask[string](t, lazy, `SELECT pg_switch_wal()::text`) // each full page of the log is flushed: begin a new one
		for range 50 {
			ask[string](t, lazy, `SELECT pg_current_xact_id()::text`)
		}
		relay.drain(t) // it has now seen those ids end without rows
		seen := ask[int64](t, lazy, `SELECT pg_snapshot_xmax(pg_current_snapshot())::text::bigint`)
		p.Kill()
		if err := p.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		pool := testkit.Pool(t, p.URL("postgres"))
		for i := range 5 {
			want = append(want, fmt.Sprintf("s.%d.%d", attempt, i))
			insert(t, pool, "k", want[len(want)-1])
		}
		usedAgain = ask[int64](t, pool, `SELECT max(xid::text::bigint) FROM outbox`) < seen
		relay.Pool, relay.reader = pool, movedTo(relay.reader, pool) // what it remembers stays
		relay.drain(t)
		wantSubjects(t, "published", relay.broker.subjects(), want...)
	}
}

// P9: a standby that is promoted may not know the latest transaction ids of the
// server before it, and give them out again.
func TestAnotherServerMeansAnotherMemory(t *testing.T) {
	t.Parallel()
	pool := testkit.Postgres(t)
	relay := newStepper(t, pool)
	relay.drain(t)
	insert(t, pool, "k", "s")
	relay.lanes[0].now.from, relay.timeline = ask[string](t, pool, `SELECT pg_current_snapshot()::text`), "0000000F"
	relay.drain(t)
	wantSubjects(t, "published", relay.broker.subjects(), "s")
}

package outbox

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/skald-saga/skald/internal/testkit"
)

// P12: a page holds no more bytes than the limit, however large the messages;
// one that is larger by itself is a page of its own.
func TestAPageIsBoundedInBytes(t *testing.T) {
	t.Parallel()
	pool := testkit.Postgres(t)
	relay := newStepper(t, pool, limits{rows: 10, bytes: 1000, list: 4})
	var want []string
	for i, size := range []int{400, 400, 400, 2500, 10, 999, 1, 1000, 1001, 0, 0, 300, 300, 300, 300, 300} {
		want = append(want, fmt.Sprint(i))
		execute(t, pool, `SELECT outbox_append('k', $1, '{}', $2)`, fmt.Sprint(i), make([]byte, size))
	}
	relay.drain(t)
	wantSubjects(t, "published", relay.broker.subjects(), want...)
	for _, rows := range relay.broker.offers {
		before := 0
		for _, r := range rows[:len(rows)-1] {
			before += len(r.Payload)
		}
		if before >= 1000 {
			t.Errorf("%d bytes before the last row of %q", before, subjects(rows))
		}
	}
	if n := len(relay.broker.offers); n > 9 {
		t.Errorf("%d pages, want no more than 9", n)
	}
	for i := range 3 { // a window of fewer rows than a page may have
		want = append(want, fmt.Sprint("more", i))
		execute(t, pool, `SELECT outbox_append('k', $1, '{}', $2)`, fmt.Sprint("more", i), make([]byte, 900))
	}
	relay.drain(t)
	wantSubjects(t, "published", relay.broker.subjects(), want...)
}

// P9: what a relay has found ahead in one window does not count in the next,
// which another relay has begun and which has rows of lower numbers.
func TestAListIsOfOneWindowOnly(t *testing.T) {
	t.Parallel()
	pool := testkit.Postgres(t)
	small := limits{rows: 2, bytes: 1000, list: 20}
	a, b := newStepper(t, pool, small), newStepper(t, pool, small)
	insert(t, pool, "k", "s.0")
	insert(t, pool, "k", "s.1")
	late := begin(t, pool)
	for _, subject := range numbered("late", 6) {
		insert(t, late, "late", subject)
	}
	for _, subject := range numbered("s", 8)[2:] {
		insert(t, pool, "k", subject)
	}
	a.pass(t)
	a.pass(t) // it now knows where s.4 to s.7 are
	for range 2 {
		b.pass(t) // up to the end of the window
	}
	b.pass(t)
	commit(t, late)
	b.pass(t) // late.0 and late.1: the next window is open
	a.drain(t)
	wantSubjects(t, "the first relay", a.broker.subjects(), "s.0", "s.1", "s.2", "s.3", "late.2", "late.3", "late.4", "late.5")
	wantSubjects(t, "the second relay", b.broker.subjects(), "s.4", "s.5", "s.6", "s.7", "late.0", "late.1")
}

// P9: what commits between the snapshot and the reading belongs to the next
// window, and is published once.
func TestWhatCommitsWhileTheRelayReadsIsPublishedOnce(t *testing.T) {
	t.Parallel()
	url, queries := testkit.DatabaseURL(t), &tracer{}
	writer := testkit.Pool(t, url)
	relay := newStepper(t, tracedPool(t, url, queries))
	tx := begin(t, writer)
	insert(t, tx, "k", "meanwhile")
	insert(t, writer, "k", "before")
	queries.before(firstPage, func() { // takes the snapshot
		queries.before(firstPage, func() { commit(t, tx) }) // reads up to it
	})
	relay.drain(t)
	wantSubjects(t, "published", relay.broker.subjects(), "before", "meanwhile")
}

// P9, P12: a window of many pages, with rows of transactions that were open
// when it began, is published once and in order; and it is searched once per
// list, not once per page.
func TestALongWindowIsReadInPages(t *testing.T) {
	t.Parallel()
	for name, restart := range map[string]bool{"by one relay": false, "by relays that are replaced after every page": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			url, queries := testkit.DatabaseURL(t), &tracer{}
			pool := tracedPool(t, url, queries)
			small := limits{rows: 3, bytes: 1 << 20, list: 12}
			relay := newStepper(t, pool, small)
			b := relay.broker

			open := begin(t, pool)
			insert(t, open, "open", "s.0")
			insert(t, pool, "k", "begins")
			relay.drain(t) // the next window begins while the transaction is open
			unfinished := begin(t, pool)
			ask[string](t, unfinished, `SELECT pg_current_xact_id()::text`)
			want := numbered("s", 50)
			for i, subject := range want[1:40] {
				insert(t, pool, fmt.Sprint(i%5), subject)
				if i == 20 {
					insert(t, unfinished, "unfinished", "unfinished")
				}
			}
			for _, subject := range want[40:] {
				insert(t, open, "open", subject)
			}
			commit(t, open)

			queries.reset()
			relay.pass(t)
			commit(t, unfinished) // too late for the window that has begun
			for relay.pass(t) > 0 {
				insert(t, pool, "more", "more") // of later windows
				if restart {
					relay = newStepper(t, pool, small)
					relay.broker, relay.Publisher = b, b
				}
				if len(b.offers) > 17 {
					break
				}
			}
			if len(b.subjects()) < 51 {
				t.Fatalf("only %q were published", b.subjects())
			}
			wantSubjects(t, "the window", b.subjects()[1:51], want...)
			if n := queries.count(func(sql string) bool { return sql == listWindow || sql == splitWindow }); !restart && n > 2 {
				t.Errorf("the window was searched %d times for 17 pages", n)
			}
			relay.drain(t)
			all := b.subjects()
			if got := all[51:]; got[0] != "unfinished" || strings.Trim(strings.Join(got[1:], ""), "more") != "" {
				t.Errorf("after the window: got %q", got)
			}
			if n := ask[int](t, pool, `SELECT count(*) FROM outbox`); n != len(all) {
				t.Errorf("%d rows were published %d times", n, len(all))
			}
		})
	}
}

// Rows that somebody deleted do not stop the rest.
func TestDeletedRowsDoNotStopTheRest(t *testing.T) {
	t.Parallel()
	pool := testkit.Postgres(t)
	relay := newStepper(t, pool, limits{rows: 2, bytes: 1000, list: 4})
	for _, subject := range numbered("s", 9) {
		insert(t, pool, "k", subject)
	}
	relay.pass(t)
	relay.pass(t) // the list now holds s.2 to s.5
	execute(t, pool, `DELETE FROM outbox WHERE subject IN ('s.4', 's.5')`)
	if _, err := relay.Relay.pass(t.Context(), relay.reader); err == nil {
		t.Error("that rows are gone was not noticed")
	}
	relay.drain(t)
	wantSubjects(t, "published", relay.broker.subjects(), "s.0", "s.1", "s.2", "s.3", "s.6", "s.7", "s.8")
}

// The relay works through a pooler that cannot keep prepared statements, if the
// URL says so.
func TestTheRelayWorksInEveryModeOfTheDriver(t *testing.T) {
	t.Parallel()
	for _, mode := range []string{"cache_statement", "cache_describe", "describe_exec", "exec", "simple_protocol"} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			url := testkit.DatabaseURL(t)
			writer := testkit.Pool(t, url)
			relay := newStepper(t, testkit.Pool(t, url+"&default_query_exec_mode="+mode), limits{rows: 2, bytes: 1 << 20, list: 3})
			if err := Check(t.Context(), relay.Relay.Pool); err != nil {
				t.Fatal(err)
			}
			want := numbered("s", 9)
			for _, subject := range want {
				insert(t, writer, "k", subject)
			}
			relay.broker.answer = func(rows []Row) []Result {
				results := make([]Result, len(rows))
				for i, r := range rows {
					if r.Subject == "s.3" {
						results[i] = Result{Err: errAway, Poison: true}
					}
				}
				return results
			}
			relay.drain(t)
			if err := relay.flush(t.Context()); err != nil {
				t.Fatal(err)
			}
			if err := relay.awaitFlush(t.Context(), ask[string](t, writer, `SELECT pg_current_wal_flush_lsn()::text`)); err != nil {
				t.Fatal(err)
			}
			wantSubjects(t, "published", relay.broker.subjects(), slices.Delete(want, 3, 4)...)
			if n := ask[int](t, writer, `SELECT count(*) FROM outbox_dead`); n != 1 {
				t.Errorf("%d dead letters, want 1", n)
			}
		})
	}
}

// tracer remembers the statements of a pool.
type tracer struct {
	mu    sync.Mutex
	sqls  []string
	hooks map[string]func()
}

// before calls f, once, when the statement is about to be sent.
func (q *tracer) before(sql string, f func()) {
	q.hooks = map[string]func(){sql: f}
}

func (q *tracer) TraceQueryStart(ctx context.Context, _ *pgx.Conn, data pgx.TraceQueryStartData) context.Context {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.sqls = append(q.sqls, data.SQL)
	if f := q.hooks[data.SQL]; f != nil {
		delete(q.hooks, data.SQL)
		f()
	}
	return ctx
}

func (q *tracer) TraceQueryEnd(context.Context, *pgx.Conn, pgx.TraceQueryEndData) {}

func (q *tracer) reset() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.sqls = nil
}

func (q *tracer) count(which func(sql string) bool) (n int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, sql := range q.sqls {
		if which(sql) {
			n++
		}
	}
	return n
}

func tracedPool(t testing.TB, url string, q *tracer) *pgxpool.Pool {
	t.Helper()
	cfg, err := pgxpool.ParseConfig(url)
	if err != nil {
		t.Fatal(err)
	}
	cfg.ConnConfig.Tracer = q
	pool, err := pgxpool.NewWithConfig(context.Background(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	return pool
}

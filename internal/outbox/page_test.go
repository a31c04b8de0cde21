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
			want := numbered("s", 50)
			for i, subject := range want[1:40] {
				insert(t, pool, fmt.Sprint(i%5), subject)
			}
			for _, subject := range want[40:] {
				insert(t, open, "open", subject)
			}
			commit(t, open)
			unfinished := begin(t, pool)
			insert(t, unfinished, "unfinished", "unfinished")

			queries.reset()
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
			wantSubjects(t, "the window", b.subjects()[1:51], want...)
			if n := queries.count(func(sql string) bool { return sql == listWindow }); !restart && n > 6 {
				t.Errorf("the window was searched %d times for 17 pages", n)
			}
			relay.drain(t)
			got := b.subjects()[51:]
			if len(got) == 0 || strings.Trim(strings.Join(got, ""), "more") != "" {
				t.Errorf("after the window: got %q, want only more", got)
			}
			commit(t, unfinished)
			relay.drain(t)
			if got := b.subjects(); got[len(got)-1] != "unfinished" {
				t.Errorf("last: got %q, want %q", got[len(got)-1], "unfinished")
			}
			all := b.subjects()
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
	mu   sync.Mutex
	sqls []string
}

func (q *tracer) TraceQueryStart(ctx context.Context, _ *pgx.Conn, data pgx.TraceQueryStartData) context.Context {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.sqls = append(q.sqls, data.SQL)
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

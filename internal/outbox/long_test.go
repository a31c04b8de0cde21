package outbox

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/skald-saga/skald/internal/embedded"
	"github.com/skald-saga/skald/internal/testkit"
	"github.com/skald-saga/skald/migrations"
)

// meter counts what the reader of a database looks at.
type meter struct {
	reader *pgxpool.Pool // of one connection
	*tracer
}

func newMeter(t testing.TB, url string) *meter {
	t.Helper()
	q := &tracer{}
	return &meter{reader: tracedPool(t, url+"&pool_max_conns=1", q), tracer: q}
}

// entries are those of the ring's indexes that were read so far, and rows that
// were read without.
func (m *meter) entries(t testing.TB) int {
	t.Helper()
	ask[*string](t, m.reader, `SELECT pg_stat_force_next_flush()::text`)
	return ask[int](t, m.reader, `SELECT (SELECT sum(idx_tup_read) FROM pg_stat_user_indexes WHERE relname ~ '^outbox_[0-3]$')
		+ (SELECT sum(seq_tup_read) FROM pg_stat_user_tables WHERE relname ~ '^outbox_[0-3]$')`)
}

// insertMany writes rows numbered from first in transactions of so many each.
func insertMany(t testing.TB, pool *pgxpool.Pool, first, rows, each int) {
	t.Helper()
	execute(t, pool, fmt.Sprintf(`DO $$ BEGIN
		FOR i IN 0..%d LOOP
			INSERT INTO outbox (key, subject, payload) SELECT n %% 97, n, 'payload' FROM generate_series(%d + i * %d, %d + (i + 1) * %d - 1) AS n;
			COMMIT;
		END LOOP; END $$`, rows/each-1, first, each, first, each))
}

// P9, P12: after an outage a window has many rows. They are published in order,
// and what it takes to find them grows with their number, not with its square:
// the window is searched as a whole three times, and then part by part.
func TestWhatIsReadOfALongWindowGrowsWithItsRows(t *testing.T) {
	t.Parallel()
	const rows = 12_000
	for name, write := range map[string]func(t *testing.T, pool *pgxpool.Pool){
		"of small transactions":  func(t *testing.T, pool *pgxpool.Pool) { insertMany(t, pool, 0, rows, 3) },
		"of one big transaction": func(t *testing.T, pool *pgxpool.Pool) { insertMany(t, pool, 0, rows, rows) },
		"of a few, and one that went on all the time": func(t *testing.T, pool *pgxpool.Pool) {
			long := begin(t, pool)
			for n := 0; n < rows; n += 1000 {
				for i := range 100 {
					execute(t, long, `INSERT INTO outbox (key, subject, payload) VALUES ('long', $1::int, '')`, n+i)
				}
				insertMany(t, pool, n+100, 900, 4)
			}
			commit(t, long)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			url := testkit.DatabaseURL(t)
			pool, m := testkit.Pool(t, url), newMeter(t, url)
			relay := newStepper(t, m.reader, limits{rows: 100, bytes: 1 << 20, list: 300})
			open := begin(t, pool) // in flight when the window begins
			insert(t, open, "k", "-1")
			insert(t, pool, "k", "-2")
			relay.drain(t)
			write(t, pool)
			commit(t, open)
			before := m.entries(t)
			m.reset()
			want := []string{"-2", "-1"}
			for n := range rows {
				want = append(want, fmt.Sprint(n))
			}
			relay.drain(t)
			if !slices.Equal(relay.broker.subjects(), want) {
				t.Errorf("%d of %d rows were published, or not in order", len(relay.broker.subjects()), len(want))
			}
			read := m.entries(t) - before
			t.Logf("%d index entries for %d rows", read, rows)
			if read > 6*rows { // to search the window for each list takes 20 times the rows
				t.Errorf("%d index entries were read for %d rows", read, rows)
			}
			for sql, most := range map[string]int{listWindow: 1, splitWindow: 1} {
				if n := m.count(func(s string) bool { return s == sql }); n != most {
					t.Errorf("the window was searched %d times by %.20s..., want %d", n, sql, most)
				}
			}
			for _, w := range relay.long {
				t.Errorf("of a window that has ended %d places and %d parts are kept", len(w.seqs), len(w.parts))
			}
		})
	}
}

// P12: what is held of a long window is bounded, however long it is: a part
// that is too big is listed in pieces.
func TestOfALongWindowABoundedPartIsHeld(t *testing.T) {
	t.Parallel()
	pool := testkit.Postgres(t)
	const rows = 6000
	relay := newStepper(t, pool, limits{rows: 7, bytes: 1 << 20, list: 11}) // 546 lists, and no more than 256 parts
	insertMany(t, pool, 0, rows, 5)
	for len(relay.broker.taken) < rows {
		relay.pass(t)
		for _, w := range relay.long {
			if len(w.parts) > partsMost || len(w.seqs) > 11 {
				t.Fatalf("%d parts and %d places", len(w.parts), len(w.seqs))
			}
		}
	}
	for n, r := range relay.broker.taken {
		if r.Subject != fmt.Sprint(n) {
			t.Fatalf("row %d is %s", n, r.Subject)
		}
	}
}

// P12: what others leave open for minutes costs each window the same few looks
// into the index, however much was published meanwhile.
func TestReadingCostsTheSameWhateverOthersLeaveOpen(t *testing.T) {
	t.Parallel()
	p, err := embedded.StartPostgres(t.Context(), embedded.PostgresConfig{Params: map[string]string{"max_prepared_transactions": "5", "shared_buffers": "32MB"}})
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
	pool, other, m := testkit.Pool(t, p.URL("postgres")), testkit.Pool(t, p.URL("template1")), newMeter(t, p.URL("postgres"))
	relay := newStepper(t, m.reader)
	cost := func() int { // of twenty windows
		t.Helper()
		before := m.entries(t)
		for n := range 20 {
			insert(t, pool, "k", fmt.Sprint(n))
			if relay.pass(t) != 1 {
				t.Error("a window has not one row")
			}
		}
		return m.entries(t) - before
	}
	relay.drain(t)
	calm := cost()

	execute(t, pool, `BEGIN; INSERT INTO outbox (key, subject, payload) VALUES ('orphan', 'orphan', ''); PREPARE TRANSACTION 'orphan'`)
	writer, stranger := begin(t, pool), begin(t, other)
	insert(t, writer, "slow", "slow")
	ask[string](t, stranger, `SELECT pg_current_xact_id()::text`)
	held, err := pool.BeginTx(t.Context(), pgx.TxOptions{IsoLevel: pgx.RepeatableRead})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = held.Rollback(context.Background()) }()
	ask[int](t, held, `SELECT count(*) FROM outbox`)
	for range 5 { // minutes pass
		insertMany(t, pool, 0, 2000, 2)
		relay.drain(t)
	}
	if now := cost(); now > 2*calm+20 {
		t.Errorf("twenty windows cost %d index entries, and %d before", now, calm)
	}
	commit(t, writer)
	execute(t, pool, `COMMIT PREPARED 'orphan'`)
	relay.drain(t)
	var late []string
	for _, subject := range relay.broker.subjects() {
		if strings.Contains("slow orphan", subject) && subject != "" && len(subject) > 3 {
			late = append(late, subject)
		}
	}
	slices.Sort(late)
	wantSubjects(t, "what came late", late, "orphan", "slow")
	if n := ask[int](t, pool, `SELECT count(*) FROM outbox`); n != len(relay.broker.subjects()) {
		t.Errorf("%d rows were published %d times", n, len(relay.broker.subjects()))
	}
}

package outbox

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/skald-saga/skald/internal/testkit"
)

func TestMain(m *testing.M) { testkit.Main(m) }

// execer is a pool, a connection or a transaction.
type execer interface {
	Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error)
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
}

// insert writes one row; its subject is all that tests look at.
func insert(t testing.TB, db execer, key, subject string) {
	t.Helper()
	ask[string](t, db, `SELECT outbox_append($1, $2, '{}', '')::text`, key, subject)
}

func execute(t testing.TB, db execer, sql string, args ...any) {
	t.Helper()
	if _, err := db.Exec(t.Context(), sql, args...); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
}

func newID(t testing.TB) uuid.UUID {
	t.Helper()
	id, err := uuid.NewV7()
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// ask returns the one value that a query answers with.
func ask[T any](t testing.TB, db execer, sql string, args ...any) T {
	t.Helper()
	all := askAll[T](t, db, sql, args...)
	if len(all) != 1 {
		t.Fatalf("%s: %d rows", sql, len(all))
	}
	return all[0]
}

func askAll[T any](t testing.TB, db execer, sql string, args ...any) []T {
	t.Helper()
	rows, err := db.Query(t.Context(), sql, args...)
	if err != nil {
		t.Fatal(err)
	}
	all, err := pgx.CollectRows(rows, pgx.RowTo[T])
	if err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	return all
}

func begin(t testing.TB, pool *pgxpool.Pool) pgx.Tx {
	t.Helper()
	tx, err := pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = tx.Rollback(context.Background()) })
	return tx
}

func commit(t testing.TB, tx pgx.Tx) {
	t.Helper()
	if err := tx.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// broker is a publisher that remembers what it took.
type broker struct {
	answer func(rows []Row) []Result // nil: all are taken

	mu     sync.Mutex
	taken  []Row
	offers [][]Row
}

func (b *broker) Publish(_ context.Context, rows []Row) []Result {
	results := make([]Result, len(rows))
	if b.answer != nil {
		results = b.answer(rows)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.offers = append(b.offers, rows)
	for i, res := range results {
		if res.Err == nil {
			b.taken = append(b.taken, rows[i])
		}
	}
	return results
}

// subjects of the rows that the broker took.
func (b *broker) subjects() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return subjects(b.taken)
}

func subjects(rows []Row) []string {
	s := []string{}
	for _, r := range rows {
		s = append(s, r.Subject)
	}
	return s
}

// stepper is a relay whose passes the test makes one by one.
type stepper struct {
	*Relay
	*reader
	broker *broker
}

// newStepper makes a relay on pool, with limits or the default ones. It takes
// all lanes, and shares the lease with other steppers: what keeps those apart is
// the position alone.
func newStepper(t testing.TB, pool *pgxpool.Pool, l ...limits) *stepper {
	t.Helper()
	b := &broker{}
	return &stepper{&Relay{Pool: pool, Publisher: b, Log: testkit.Log(t), Metrics: NewMetrics(nil)}, newReader(t, pool, l...), b}
}

func newReader(t testing.TB, pool *pgxpool.Pool, l ...limits) *reader {
	t.Helper()
	rd := &reader{pool: pool, limits: defaultLimits, lease: &lease{pool: pool, owner: "stepper", ttl: time.Hour}}
	if len(l) > 0 {
		rd.limits = l[0]
	}
	if _, err := rd.lease.claim(t.Context(), 64); err != nil {
		t.Fatal(err)
	}
	return rd
}

// pass makes one pass, which must succeed, and returns how many rows left.
func (s *stepper) pass(t testing.TB) int {
	t.Helper()
	n, err := s.Relay.pass(t.Context(), s.reader)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// drain makes passes until nothing is left.
func (s *stepper) drain(t testing.TB) {
	t.Helper()
	for idle := 0; idle < 2; { // a window may end with an empty page
		if s.pass(t) == 0 {
			idle++
		} else {
			idle = 0
		}
	}
}

func wantSubjects(t testing.TB, what string, got []string, want ...string) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("%s: got %q, want %q", what, got, want)
	}
}

var errAway = errors.New("the broker is away")

// numbered returns n subjects: prefix.0, prefix.1, ...
func numbered(prefix string, n int) []string {
	s := make([]string, n)
	for i := range s {
		s[i] = fmt.Sprintf("%s.%d", prefix, i)
	}
	return s
}

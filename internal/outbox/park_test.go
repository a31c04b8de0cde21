package outbox

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/skald-saga/skald/internal/testkit"
)

var errFull = errors.New("the stream is full")

// fullFor lets a broker refuse subjects that begin so, and what is behind them.
func (b *broker) fullFor(prefix string) {
	b.answer = func(rows []Row) []Result {
		results, blocked := make([]Result, len(rows)), map[string]bool{}
		for i, r := range rows {
			if blocked[r.Key] {
				results[i].Err = errors.New("not sent")
			} else if strings.HasPrefix(r.Subject, prefix) {
				results[i], blocked[r.Key] = Result{Err: errFull, Blocked: true}, true
			}
		}
		return results
	}
}

// sweep offers all parked rows once.
func (s *stepper) sweep(t testing.TB) {
	t.Helper()
	s.parking.next = time.Time{}
	for s.parking.may && time.Now().After(s.parking.next) {
		if _, err := s.retry(t.Context(), s.reader); err != nil {
			t.Fatal(err)
		}
	}
}

func parkedSubjects(t testing.TB, pool *pgxpool.Pool) []string {
	t.Helper()
	return askAll[string](t, pool, `SELECT subject FROM outbox_parked ORDER BY id`)
}

// P10: what a full or missing stream does not take is parked, with what follows
// of its keys; all else flows. When there is room again it leaves in order.
func TestAFullStreamDelaysOnlyItsOwnKeys(t *testing.T) {
	t.Parallel()
	pool := testkit.Postgres(t)
	relay := newStepper(t, pool)
	for _, m := range []struct{ key, subject string }{
		{"a", "s.1"}, {"a", "full.2"}, {"a", "s.3"}, {"b", "s.4"}, {"c", "full.5"}, {"b", "s.6"}, {"c", "full.7"},
	} {
		insert(t, pool, m.key, m.subject)
	}
	relay.broker.fullFor("full")
	relay.drain(t)
	wantSubjects(t, "published", relay.broker.subjects(), "s.1", "s.4", "s.6")
	wantSubjects(t, "parked", parkedSubjects(t, pool), "full.2", "s.3", "full.5", "full.7")
	if !ask[bool](t, pool, `SELECT bool_and(p.xmin = l.xmin) FROM outbox_parked p, outbox_lane l`) {
		t.Error("the parked rows and the position were not written by one transaction")
	}
	insert(t, pool, "a", "s.8") // of a parked key
	insert(t, pool, "b", "s.9")
	next := newStepper(t, pool) // a relay that does not know of them
	next.broker.fullFor("full")
	next.drain(t)
	wantSubjects(t, "published by the next relay", next.broker.subjects(), "s.9")
	next.sweep(t)
	wantSubjects(t, "still parked", parkedSubjects(t, pool), "full.2", "s.3", "full.5", "full.7", "s.8")

	relay.broker.fullFor("full.7")
	relay.drain(t) // notices that the other has parked more
	relay.sweep(t)
	wantSubjects(t, "published", relay.broker.subjects()[3:], "full.2", "s.3", "full.5", "s.8")
	wantSubjects(t, "still parked", parkedSubjects(t, pool), "full.7")
	insert(t, pool, "a", "s.10") // free again
	relay.drain(t)
	relay.broker.answer = nil
	relay.sweep(t)
	wantSubjects(t, "published", relay.broker.subjects()[7:], "s.10", "full.7")
	if relay.parking.may {
		t.Error("it looks for parked rows although there are none")
	}
}

// P10: parked rows are tried a page at a time, and none overtakes one of its
// key that is not taken, in whatever page that is.
func TestAParkedRowDoesNotOvertakeOneOfItsKey(t *testing.T) {
	t.Parallel()
	pool := testkit.Postgres(t)
	relay := newStepper(t, pool, limits{rows: 2, bytes: 1000, list: 4, parked: 100})
	for _, m := range []struct{ key, subject string }{
		{"a", "full.1"}, {"b", "full.2"}, {"a", "full.3"}, {"c", "full.other.4"}, {"b", "s.5"}, {"a", "s.6"}, {"c", "s.7"}, {"d", "full.2"}, {"d", "s.9"},
	} {
		insert(t, pool, m.key, m.subject)
	}
	relay.broker.fullFor("full")
	relay.drain(t)
	relay.broker.fullFor("full.2")
	relay.sweep(t)
	wantSubjects(t, "published", relay.broker.subjects(), "full.1", "full.3", "full.other.4", "s.6", "s.7")
	if n := len(relay.broker.offers); n > 9 {
		t.Errorf("%d offers", n)
	}
	relay.broker.answer = nil
	relay.sweep(t)
	wantSubjects(t, "published", relay.broker.subjects()[5:], "full.2", "s.5", "full.2", "s.9")

	// More subjects are refused than a sweep remembers.
	keys := numbered("k", refusedMost+5)
	for _, prefix := range []string{"full.", "s."} {
		for _, key := range keys {
			insert(t, pool, key, prefix+key)
		}
	}
	relay.reader.limits.parked = 1000
	relay.broker.fullFor("full")
	relay.drain(t)
	relay.sweep(t)
	wantSubjects(t, "published", relay.broker.subjects()[9:])
}

// P10: while nothing at all is taken nothing is parked, for a while; and never
// more than the limit.
func TestAnOutageParksNothing(t *testing.T) {
	t.Parallel()
	pool := testkit.Postgres(t)
	relay := newStepper(t, pool, limits{rows: 2, bytes: 1000, list: 10, parked: 3, patience: time.Hour})
	for _, subject := range numbered("full", 9) {
		insert(t, pool, subject, subject)
	}
	relay.broker.fullFor("full")
	for range 3 {
		if n, err := relay.Relay.pass(t.Context(), relay.reader); n != 0 || !errors.Is(err, errFull) {
			t.Fatalf("got %d and %v, want none and %v", n, err, errFull)
		}
	}
	wantSubjects(t, "parked", parkedSubjects(t, pool))
	relay.reader.limits.patience = 0
	relay.pass(t)
	relay.pass(t)
	if n, err := relay.Relay.pass(t.Context(), relay.reader); n != 0 || !errors.Is(err, errFull) {
		t.Fatalf("beyond the limit: got %d and %v, want none and %v", n, err, errFull)
	}
	wantSubjects(t, "parked", parkedSubjects(t, pool), numbered("full", 4)...)
	relay.broker.answer = nil
	relay.sweep(t)
	relay.drain(t)
	got := relay.broker.subjects()
	slices.Sort(got)
	wantSubjects(t, "published", got, numbered("full", 9)...)
}

// P10: one message that is never taken and one that is not taken now, among a
// hundred thousand, delay nothing but their own keys.
func TestABadMessageAmongManyDelaysOnlyItsOwnKey(t *testing.T) {
	t.Parallel()
	pool := testkit.Postgres(t)
	execute(t, pool, `INSERT INTO outbox (key, subject, payload)
		SELECT 'k' || n % 1000, CASE n WHEN 30007 THEN 'full' WHEN 60008 THEN 'poison' ELSE 's' END, '' FROM generate_series(1, 100000) AS n`)
	relay := newStepper(t, pool)
	relay.broker.fullFor("full")
	full := relay.broker.answer
	relay.broker.answer = func(rows []Row) []Result {
		results := full(rows)
		for i, r := range rows {
			if r.Subject == "poison" {
				results[i] = Result{Err: errFull, Poison: true}
			}
		}
		return results
	}
	relay.drain(t)
	if n := len(relay.broker.taken); n != 100_000-1-70 {
		t.Errorf("%d were published, want all but the poisoned one and 70 of one key", n)
	}
	if n := ask[int](t, pool, `SELECT count(*) FROM outbox_parked WHERE key = 'k7'`); n != 70 {
		t.Errorf("%d of its key are parked, want 70", n)
	}
	if n := ask[int](t, pool, `SELECT count(*) FROM outbox_dead`); n != 1 {
		t.Errorf("%d dead letters, want 1", n)
	}
}

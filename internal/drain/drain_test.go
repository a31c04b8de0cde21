package drain

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/skald-saga/skald/internal/outbox"
	"github.com/skald-saga/skald/internal/testkit"
)

// Whatever the table looks like, each row that was committed arrives once, a
// key's rows in their order, and is settled as the file says.
func TestTablesOfAnyShapeAreDrained(t *testing.T) {
	t.Parallel()
	for name, s := range shapes {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			pool, b := testkit.Postgres(t), newBroker(t)
			m := s.make(t, pool)
			if warnings, err := m.Check(t.Context(), pool); err != nil || len(warnings) > 0 {
				t.Fatalf("warnings %q, %v", warnings, err)
			}
			start(t, pool, m, b)
			const writers, each = 4, 30
			var wg sync.WaitGroup
			var want []int
			var number atomic.Int64
			var mu sync.Mutex
			for w := range writers {
				wg.Go(func() {
					for range each {
						tx, err := pool.Begin(t.Context())
						if err != nil {
							t.Error(err)
							return
						}
						n := int(number.Add(1))
						if _, err := tx.Exec(t.Context(), s.insert, n, fmt.Sprint("k", w)); err != nil {
							t.Error(err)
						}
						if rand.IntN(5) == 0 {
							_ = tx.Rollback(t.Context())
							continue
						}
						if err := tx.Commit(t.Context()); err != nil {
							t.Error(err)
							return
						}
						mu.Lock()
						want = append(want, n)
						mu.Unlock()
					}
				})
			}
			wg.Wait()
			b.await(t, want...)
			testkit.Eventually(t, "all are settled", 20*time.Second, func() (bool, string) {
				n := count(t, pool, s.left)
				return n == 0, fmt.Sprint(n)
			})
			wantOrder(t, b)
		})
	}
}

// wantOrder checks what is offered of each key; each has one writer, whose
// numbers grow.
func wantOrder(t *testing.T, b *broker) {
	t.Helper()
	last := map[string]int{}
	numbers, messages := b.numbers(t)
	keys := map[string]string{}
	for _, rows := range b.offers {
		for _, r := range rows {
			keys[r.MsgID.String()] = r.Key
		}
	}
	for i, n := range numbers {
		key := keys[messages[i].Header.Get("Nats-Msg-Id")]
		if key == "" || last[key] > n {
			t.Errorf("key %q: %d after %d", key, n, last[key])
		}
		last[key] = n
	}
}

// A row's columns become the message that the file describes.
func TestAMessageIsMadeOfTheColumns(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]map[string]string{
		"uuid and time, deleted": {"subject": "s.order.Placed", "content-type": "application/json", "ce-type": "shop.Placed"},
		"number and mark":        {"subject": "s.a", "x-own": "1"},
		"state in words":         {"subject": "s.events"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			pool, b := testkit.Postgres(t), newBroker(t)
			r := stepper(t, pool, shapes[name].make(t, pool), b)
			execute(t, pool, shapes[name].insert, 7, "k")
			if n := r.step(t); n != 1 {
				t.Fatalf("%d rows", n)
			}
			numbers, messages := b.numbers(t)
			if len(numbers) != 1 || numbers[0] != 7 {
				t.Fatalf("%v", numbers)
			}
			for header, value := range want {
				got := messages[0].Header.Get(header)
				if header == "subject" {
					got = messages[0].Subject
				}
				if got != value {
					t.Errorf("%s: %q, want %q", header, got, value)
				}
			}
			if at, err := time.Parse(time.RFC3339Nano, messages[0].Header.Get("ce-time")); err != nil || time.Since(at).Abs() > time.Hour*24 {
				t.Errorf("ce-time %v, %v", at, err)
			}
		})
	}
}

// A relay that was asleep while another took its lease settles nothing; what it
// has published is published again under the same ids, and dropped.
func TestWhatWasPublishedAndNotSettledIsPublishedAgain(t *testing.T) {
	t.Parallel()
	for name, s := range shapes {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			pool, b := testkit.Postgres(t), newBroker(t)
			r := stepper(t, pool, s.make(t, pool), b)
			for n := range 10 {
				execute(t, pool, s.insert, n, fmt.Sprint(n%3))
			}
			b.after = func() {
				execute(t, pool, `UPDATE relay_drain SET owner = 'other', epoch = epoch + 1, lease_until = clock_timestamp() + interval '1 hour'`)
			}
			if n, err := r.pass(t.Context()); !errors.Is(err, errElsewhere) || n != 0 {
				t.Fatalf("%d rows settled, %v", n, err)
			}
			b.after = nil
			if n := count(t, pool, s.left); n != 10 {
				t.Errorf("%d rows are pending, want 10", n)
			}
			if n, err := r.pass(t.Context()); !errors.Is(err, errElsewhere) || n != 0 {
				t.Errorf("without the lease: %d rows, %v", n, err)
			}
			execute(t, pool, `UPDATE relay_drain SET lease_until = clock_timestamp()`)
			if n := r.step(t); n != 10 || count(t, pool, s.left) != 0 {
				t.Errorf("with the lease: %d rows, %d are pending", n, count(t, pool, s.left))
			}
			numbers, _ := b.numbers(t)
			slices.Sort(numbers)
			if !slices.Equal(numbers, []int{0, 1, 2, 3, 4, 5, 6, 7, 8, 9}) || b.offered() != 20 {
				t.Errorf("%d offered, the stream has %v", b.offered(), numbers)
			}
		})
	}
}

// Of two relays one works; when it stops, the other goes on at once.
func TestOfTwoRelaysOneDrains(t *testing.T) {
	t.Parallel()
	s := shapes["number and mark"]
	pool, first, second := testkit.Postgres(t), newBroker(t), newBroker(t)
	m := s.make(t, pool)
	stop := start(t, pool, m, first)
	execute(t, pool, s.insert, 1, "k")
	first.await(t, 1)
	start(t, pool, m, second)
	for n := 2; n < 20; n++ {
		execute(t, pool, s.insert, n, "k")
	}
	first.await(t, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19)
	if n := second.offered(); n > 0 {
		t.Errorf("the second relay published %d rows", n)
	}
	stop()
	began := time.Now()
	execute(t, pool, s.insert, 20, "k")
	second.await(t, 20)
	if d := time.Since(began); d > leaseFor {
		t.Errorf("it took %v, as if the lease had not been given back", d)
	}
}

// P10: a row that can never be published is marked or skipped, and delays no
// other, not even of its key.
func TestAPoisonedRowDelaysNoOther(t *testing.T) {
	t.Parallel()
	s := shapes["state in words"]
	for name, marked := range map[string]bool{"marked": true, "skipped": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			pool, b := testkit.Postgres(t), newBroker(t)
			m := s.make(t, pool)
			m.Subject = "{error}"
			if !marked {
				m.Dead = Dead{}
			}
			r := stepper(t, pool, m, b)
			for n, subject := range []string{"s.a", "s. bad", "s.b", "s.c"} {
				execute(t, pool, s.insert, n, "k")
				execute(t, pool, `UPDATE events SET error = $2 WHERE event_no = $1`, n, subject)
			}
			r.step(t)
			b.await(t, 0, 2, 3)
			offered := b.offered()
			if n := r.step(t); n != 0 || b.offered() != offered {
				t.Errorf("%d more rows, %d offers", n, b.offered()-offered)
			}
			const dead = `SELECT count(*) FROM events WHERE state = 'dead' AND event_no = 1 AND error LIKE '%subject%'`
			if n := count(t, pool, dead); n != map[bool]int{true: 1}[marked] {
				t.Errorf("%d rows are marked", n)
			}
		})
	}
}

// P10: when many rows of a page are refused for good, it is not they that are
// bad: none is marked.
func TestManyPoisonedRowsAreNotMarked(t *testing.T) {
	t.Parallel()
	s := shapes["state in words"]
	pool, b := testkit.Postgres(t), newBroker(t)
	m := s.make(t, pool)
	m.Subject = "{error}"
	r := stepper(t, pool, m, b)
	for n := range deadMost + 2 {
		execute(t, pool, s.insert, n, fmt.Sprint(n))
		execute(t, pool, `UPDATE events SET error = CASE WHEN event_no = 5 THEN 's.good' ELSE 'bad subject' END`)
	}
	r.step(t)
	b.await(t, 5)
	if n := count(t, pool, `SELECT count(*) FROM events WHERE state = 'dead'`); n != 0 {
		t.Errorf("%d rows are marked as dead", n)
	}
	if n := count(t, pool, s.left); n != deadMost+1 {
		t.Errorf("%d rows are pending, want %d", n, deadMost+1)
	}
}

// P10: a subject without a stream holds up the rows of its key and no other,
// and they go when there is one.
func TestABlockedRowHoldsUpItsKey(t *testing.T) {
	t.Parallel()
	s := shapes["number and mark"]
	pool, b := testkit.Postgres(t), newBroker(t)
	r := stepper(t, pool, s.make(t, pool), b)
	r.pageRows = 2
	for n, subject := range []string{"x.none", "s.a", "s.b", "s.c"} {
		execute(t, pool, s.insert, n, map[bool]string{true: "blocked", false: "free"}[n == 0 || n == 2])
		execute(t, pool, `UPDATE billing."Messages" SET topic = $2 WHERE id = $1`, n+1, subject)
	}
	for range 4 {
		r.step(t)
	}
	b.await(t, 1, 3)
	if _, err := b.js.UpdateStream(t.Context(), jetstream.StreamConfig{Name: "S", Subjects: []string{"s.>", "x.>"}}); err != nil {
		t.Fatal(err)
	}
	r.heldUntil = time.Now().Add(-time.Second)
	r.step(t)
	b.await(t, 0, 1, 2, 3)
}

// A row that commits late, ahead of what was published, is found when the table
// is read from its beginning; until then the beginning is not read.
func TestARowThatCommitsLateIsFound(t *testing.T) {
	t.Parallel()
	s := shapes["number and mark"]
	pool, b := testkit.Postgres(t), newBroker(t)
	r := stepper(t, pool, s.make(t, pool), b)
	late, err := pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := late.Exec(t.Context(), s.insert, 0, "late"); err != nil {
		t.Fatal(err)
	}
	for n := 1; n < 4; n++ {
		execute(t, pool, s.insert, n, "k")
		r.step(t)
		for i := range r.marks { // time passes
			r.marks[i].at = r.marks[i].at.Add(-slack)
		}
	}
	if err := late.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n := r.step(t); n != 0 {
		t.Fatalf("%d rows: the whole table is read each time", n)
	}
	r.scanned = time.Now().Add(-rescanEvery)
	if n := r.step(t); n != 1 {
		t.Fatalf("%d rows, want the late one", n)
	}
	b.await(t, 0, 1, 2, 3)
}

// P9: a commit that is not on disk yet is not published.
func TestARowIsNotPublishedBeforeItIsOnDisk(t *testing.T) {
	t.Parallel()
	s := shapes["number and mark"]
	pool, b := testkit.Postgres(t), newBroker(t)
	r := stepper(t, pool, s.make(t, pool), b)
	r.step(t) // the lease
	var position string
	b.before = func([]outbox.Row) {
		var flushed bool
		if err := pool.QueryRow(t.Context(), `SELECT pg_current_wal_flush_lsn() >= $1::pg_lsn`, position).Scan(&flushed); err != nil || !flushed {
			t.Errorf("published before %s was on disk (%v)", position, err)
		}
	}
	for n := range 10 {
		tx, err := pool.Begin(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, sql := range []string{`SET LOCAL synchronous_commit = off`, strings.NewReplacer("$1", fmt.Sprint(n), "$2", "'k'").Replace(s.insert)} {
			if _, err := tx.Exec(t.Context(), sql); err != nil {
				t.Fatal(err)
			}
		}
		if err := tx.Commit(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := pool.QueryRow(t.Context(), `SELECT pg_current_wal_insert_lsn()::text`).Scan(&position); err != nil {
			t.Fatal(err)
		}
		r.step(t)
	}
	b.await(t, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9)
}

// What is settled and stays pending would be published for ever.
func TestASettlementThatSettlesNothingIsAMistake(t *testing.T) {
	t.Parallel()
	s := shapes["state in words"]
	pool, b := testkit.Postgres(t), newBroker(t)
	m := s.make(t, pool)
	m.Settle.Set = map[string]string{"error": "'published'"}
	execute(t, pool, s.insert, 1, "k")
	d := &Drain{Pool: pool, Mapping: m, Publisher: b, Log: testkit.Log(t)}
	if err := d.Run(t.Context()); !errors.Is(err, ErrMistaken) || !strings.Contains(err.Error(), "pending") {
		t.Errorf("got %v", err)
	}
}

package outbox

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/skald-saga/skald/internal/testkit"
)

func newRing(t testing.TB, pool *pgxpool.Pool) *ring {
	return &ring{pool: pool, retain: time.Hour, log: testkit.Log(t), metrics: NewMetrics(nil)}
}

// try makes an attempt to turn the ring and compares what came of it.
func (g *ring) try(t testing.TB, want turning) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	got, err := g.turn(ctx)
	if err != nil || got != want {
		t.Errorf("turning the ring: %q and %v, want %q", got, err, want)
	}
}

// later lets two hours pass for the ring.
func (g *ring) later(t testing.TB) {
	t.Helper()
	execute(t, g.pool, `UPDATE outbox_ring SET switched_at = switched_at - interval '2 hours'`)
	execute(t, g.pool, `UPDATE outbox_tick SET taken_at = taken_at - interval '2 hours'`)
}

// publishAll publishes what there is and notes it.
func (g *ring) publishAll(t testing.TB, relay *stepper) {
	t.Helper()
	relay.drain(t)
	if err := g.note(t.Context(), relay.moves); err != nil {
		t.Fatal(err)
	}
}

// P12: the four parts are written in turn and emptied at once, so that the
// outbox holds what is to be kept and no dead tuple; no message is lost or
// published twice by it.
func TestTheRingIsTurnedAndHoldsNoDeadTuples(t *testing.T) {
	t.Parallel()
	pool := testkit.Postgres(t)
	relay, house := newStepper(t, pool), newRing(t, pool)
	want := numbered("s", 60)
	for round := range 12 {
		for _, subject := range want[5*round:][:5] {
			insert(t, pool, subject, subject)
		}
		slot := ask[int](t, pool, `SELECT current_slot FROM outbox_ring`)
		if rows := ask[int](t, pool, `SELECT count(*) FROM outbox WHERE slot = $1`, slot); slot != round%slots || rows != 5 {
			t.Fatalf("round %d: slot %d has %d rows", round, slot, rows)
		}
		house.publishAll(t, relay)
		house.later(t)
		house.try(t, turned)
		house.later(t)
		house.try(t, notDue) // nothing was written since
	}
	wantSubjects(t, "published", relay.broker.subjects(), want...)
	wantSubjects(t, "kept: three parts", askAll[string](t, pool, `SELECT subject FROM outbox ORDER BY seq`), want[45:]...)
	if n := ask[int](t, pool, `SELECT count(*) FROM outbox_tick`); n > 5 {
		t.Errorf("%d notes are kept for 3 parts", n)
	}
	const stats = `SELECT format('%s inserted, %s updated, %s deleted, %s dead', sum(n_tup_ins), sum(n_tup_upd), sum(n_tup_del), sum(n_dead_tup))
		FROM pg_stat_all_tables WHERE relname ~ '^outbox_[0-3]$'`
	testkit.Eventually(t, "the statistics of the ring", 30*time.Second, func() (bool, string) {
		got := ask[string](t, pool, stats)
		return got == "60 inserted, 0 updated, 0 deleted, 0 dead", got
	})
}

// P9: a part is emptied only if each of its rows was published, and that long
// enough ago.
func TestAPartIsEmptiedOnlyOfWhatWasPublishedLongAgo(t *testing.T) {
	t.Parallel()
	for name, spoil := range map[string]func(t *testing.T, pool *pgxpool.Pool, relay *stepper, house *ring){
		"a row is not published": func(t *testing.T, pool *pgxpool.Pool, _ *stepper, house *ring) {
			insertInto(t, pool, 1, "new")
			house.later(t)
		},
		"a row was committed late and is not published": func(t *testing.T, pool *pgxpool.Pool, relay *stepper, house *ring) {
			late := begin(t, pool)
			insertInto(t, late, 1, "late")
			insertInto(t, pool, 0, "other")
			house.publishAll(t, relay)
			commit(t, late)
			house.later(t)
		},
		"a row was published just now": func(t *testing.T, pool *pgxpool.Pool, relay *stepper, house *ring) {
			house.later(t)
			insertInto(t, pool, 1, "new")
			house.publishAll(t, relay)
		},
		"a row that was committed late was published just now": func(t *testing.T, pool *pgxpool.Pool, relay *stepper, house *ring) {
			late := begin(t, pool)
			insertInto(t, late, 1, "late")
			insertInto(t, pool, 0, "other")
			house.publishAll(t, relay)
			house.later(t)
			commit(t, late)
			insertInto(t, pool, 0, "another")
			house.publishAll(t, relay)
		},
		"another lane has not published a row": func(t *testing.T, pool *pgxpool.Pool, relay *stepper, house *ring) {
			execute(t, pool, `SELECT outbox_set_lanes(2)`)
			other := ask[int16](t, pool, `SELECT outbox_lane_of('new', 2)`)
			newStepper(t, pool) // takes the lanes
			execute(t, pool, `UPDATE outbox_lane SET owner = 'another' WHERE lane = $1`, other)
			insertInto(t, pool, 1, "new")
			house.publishAll(t, relay)
			house.later(t)
			house.later(t)
		},
		"the position was set back": func(t *testing.T, pool *pgxpool.Pool, relay *stepper, house *ring) {
			before := ask[string](t, pool, `SELECT snap_from::text FROM outbox_lane`)
			insertInto(t, pool, 1, "new")
			house.publishAll(t, relay)
			house.later(t)
			execute(t, pool, `UPDATE outbox_lane SET snap_from = $1::text::pg_snapshot`, before)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			pool := testkit.Postgres(t)
			relay, house := newStepper(t, pool), newRing(t, pool)
			insertInto(t, pool, 0, "first")
			insertInto(t, pool, 1, "old")
			house.publishAll(t, relay)
			house.later(t)
			execute(t, pool, `UPDATE outbox_ring SET switched_at = now()`)
			house.try(t, notDue)
			execute(t, pool, `UPDATE outbox_ring SET switched_at = now() - interval '20 minutes 1 second'`)

			spoil(t, pool, relay, house)
			rows := ask[int](t, pool, `SELECT count(*) FROM outbox`)
			house.try(t, tooYoung)
			got, err := turnWithoutLookingFirst(t, house)
			if err != nil || got != tooYoung {
				t.Errorf("under the lock: %q and %v", got, err)
			}
			if n := ask[int](t, pool, `SELECT count(*) FROM outbox`); n != rows {
				t.Errorf("%d of %d rows are left", n, rows)
			}
		})
	}
}

// turnWithoutLookingFirst is the part of turning that is done under the lock.
func turnWithoutLookingFirst(t *testing.T, house *ring) (outcome turning, err error) {
	err = pgx.BeginFunc(t.Context(), house.pool, func(tx pgx.Tx) error {
		outcome, err = house.turnLocked(t.Context(), tx)
		return err
	})
	return outcome, err
}

func insertInto(t testing.TB, db execer, slot int, subject string) {
	t.Helper()
	execute(t, db, `INSERT INTO outbox (slot, key, subject, payload) VALUES ($1, $2, $2, '')`, slot, subject)
}

// Turning the ring waits for nobody, and no writer waits for it.
func TestTurningTheRingHoldsUpNoWriter(t *testing.T) {
	t.Parallel()
	url, queries := testkit.DatabaseURL(t), &tracer{}
	writer, pool := testkit.Pool(t, url), tracedPool(t, url, queries)
	relay, house := newStepper(t, writer), newRing(t, pool)
	insertInto(t, writer, 0, "s.0")
	insertInto(t, writer, 1, "s.1")
	house.publishAll(t, relay)
	house.later(t)

	open := begin(t, writer)
	insertInto(t, open, 1, "with an old view of the ring")
	house.try(t, inUse)
	commit(t, open)
	house.publishAll(t, relay)
	house.later(t)

	reader := begin(t, writer)
	ask[int](t, reader, `SELECT count(*) FROM outbox`)
	house.try(t, inUse)
	commit(t, reader)

	old, err := writer.BeginTx(t.Context(), pgx.TxOptions{IsoLevel: pgx.RepeatableRead})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = old.Rollback(t.Context()) }()
	ask[int](t, old, `SELECT current_slot FROM outbox_ring`)
	queries.before(`TRUNCATE outbox_1`, func() {
		execute(t, old, `SET LOCAL lock_timeout = '5s'`)
		insert(t, old, "k", "meanwhile")
	})
	house.try(t, turned)
	commit(t, old)
	insert(t, writer, "k", "later")
	if got := askAll[int](t, writer, `SELECT slot FROM outbox WHERE subject IN ('meanwhile', 'later') ORDER BY seq`); !slices.Equal(got, []int{0, 1}) {
		t.Errorf("the rows are in the parts %v", got)
	}
	relay.drain(t)
	wantSubjects(t, "published", relay.broker.subjects(), "s.0", "s.1", "with an old view of the ring", "meanwhile", "later")
}

// Of several relays one turns the ring, and once.
func TestSeveralRelaysTurnTheRingOnce(t *testing.T) {
	t.Parallel()
	pool := testkit.Postgres(t)
	relay, house := newStepper(t, pool), newRing(t, pool)
	for round := range 8 {
		insert(t, pool, "k", fmt.Sprint(round))
		house.publishAll(t, relay)
		house.later(t)
		var wg sync.WaitGroup
		outcomes := make([]turning, 4)
		for i := range outcomes {
			wg.Go(func() {
				g := newRing(t, pool)
				var err error
				if outcomes[i], err = g.turn(t.Context()); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		n := 0
		for _, o := range outcomes {
			if o == turned {
				n++
			}
		}
		if slot := ask[int](t, pool, `SELECT current_slot FROM outbox_ring`); n != 1 || slot != (round+1)%slots {
			t.Fatalf("round %d: %q, and slot %d", round, outcomes, slot)
		}
	}
}

// The relay keeps house while it works, and also while the broker is away.
func TestTheRelayTurnsTheRing(t *testing.T) {
	t.Parallel()
	pool := testkit.Postgres(t)
	insertInto(t, pool, 0, "s.0")
	insertInto(t, pool, 1, "s.1")
	relay, house := newStepper(t, pool), newRing(t, pool)
	relay.drain(t)
	house.keep(t.Context(), relay.moves) // notes what was published
	house.later(t)
	insertInto(t, pool, 0, "s.2")
	relay.broker.answer = func(rows []Row) []Result { return []Result{{Err: errAway}} }
	relay.Retain = time.Hour
	go func() { _ = relay.Run(t.Context()) }()
	testkit.Eventually(t, "the ring is turned", 20*time.Second, func() (bool, string) {
		return ask[int](t, pool, `SELECT current_slot FROM outbox_ring`) == 1, "it is not"
	})
	wantSubjects(t, "kept", askAll[string](t, pool, `SELECT subject FROM outbox ORDER BY seq`), "s.0", "s.2")
}

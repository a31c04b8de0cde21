package outbox

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/skald-saga/skald/internal/embedded"
	"github.com/skald-saga/skald/internal/testkit"
	"github.com/skald-saga/skald/migrations"
)

// movedTo is a reader that goes on, with all that it remembers, on another
// pool.
func movedTo(rd *reader, pool *pgxpool.Pool) *reader {
	rd.pool, rd.lease.pool = pool, pool
	return rd
}

// P9: a prepared transaction that nobody ends holds up nobody's messages but
// its own.
func TestAnOrphanedPreparedTransactionHoldsUpNobody(t *testing.T) {
	t.Parallel()
	p, err := embedded.StartPostgres(t.Context(), embedded.PostgresConfig{Params: map[string]string{"max_prepared_transactions": "5"}})
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
	pool := testkit.Pool(t, p.URL("postgres"))
	relay := newStepper(t, pool)
	relay.drain(t)
	conn, err := pool.Acquire(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Release()
	execute(t, conn, `BEGIN`)
	insert(t, conn, "orphan", "orphan")
	execute(t, conn, `PREPARE TRANSACTION 'orphan'`)
	for _, subject := range numbered("s", 3) {
		insert(t, pool, "k", subject)
		relay.drain(t)
	}
	wantSubjects(t, "while it is not ended", relay.broker.subjects(), numbered("s", 3)...)
	execute(t, conn, `COMMIT PREPARED 'orphan'`)
	relay.drain(t)
	wantSubjects(t, "when it is committed after all", relay.broker.subjects(), append(numbered("s", 3), "orphan")...)
}

// P9: while others use all connections the relay waits for one, and goes on.
func TestARelayThatGetsNoConnectionGoesOnLater(t *testing.T) {
	t.Parallel()
	url := testkit.DatabaseURL(t)
	pool, others := testkit.Pool(t, url+"&pool_max_conns=2"), testkit.Pool(t, url)
	relay := newStepper(t, pool)
	insert(t, others, "k", "s")
	var taken []*pgxpool.Conn
	for range 2 {
		conn, err := pool.Acquire(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		taken = append(taken, conn)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if n, err := relay.Relay.pass(ctx, relay.reader); err == nil || n != 0 {
		t.Fatalf("%d rows were published without a connection (%v)", n, err)
	}
	passed := make(chan error, 1)
	go func() {
		_, err := relay.Relay.pass(t.Context(), relay.reader)
		passed <- err
	}()
	testkit.Eventually(t, "the relay waits", 10*time.Second, func() (bool, string) { return pool.Stat().EmptyAcquireCount() > 1, "" })
	for _, conn := range taken {
		conn.Release()
	}
	if err := <-passed; err != nil {
		t.Fatal(err)
	}
	wantSubjects(t, "published", relay.broker.subjects(), "s")
}

// P9: the connection is lost while the position is written, after Postgres has
// done so: the relay cannot know, looks again and publishes nothing twice.
func TestAMoveWhoseOutcomeIsUnknownIsLookedUp(t *testing.T) {
	t.Parallel()
	url := testkit.DatabaseURL(t)
	link, direct := testkit.NewLink(t, url), testkit.Pool(t, url)
	relay := newStepper(t, testkit.Pool(t, link.URL+"&pool_max_conns=1"))
	insert(t, direct, "k", "first") // its statements are prepared
	relay.drain(t)
	const position = `SELECT snap_from::text || ' ' || pos FROM outbox_lane WHERE lane = 0`
	before := ask[string](t, direct, position)
	insert(t, direct, "k", "s")
	relay.broker.answer = func(rows []Row) []Result {
		link.Mute.Store(true) // Postgres hears us; we do not hear it
		return make([]Result, len(rows))
	}
	passed := make(chan error, 1)
	go func() {
		_, err := relay.Relay.pass(t.Context(), relay.reader)
		passed <- err
	}()
	testkit.Eventually(t, "Postgres has written the position", 10*time.Second, func() (bool, string) {
		return ask[string](t, direct, position) != before, before
	})
	link.Cut()
	if err := <-passed; err == nil {
		t.Fatal("the outcome was known")
	}
	link.Mute.Store(false)
	relay.broker.answer = nil
	insert(t, direct, "k", "next")
	relay.drain(t)
	wantSubjects(t, "published", relay.broker.subjects(), "first", "s", "next")
}

// P9: writers whose clocks are wrong are published in the order of their
// commits like all others.
func TestAWrongClockChangesNothing(t *testing.T) {
	t.Parallel()
	pool := testkit.Postgres(t)
	relay := newStepper(t, pool)
	want := numbered("s", 3)
	for i, off := range []string{"1 year", "-1 year", "0"} {
		execute(t, pool, `INSERT INTO outbox (key, subject, payload, created_at) VALUES ('k', $1, '', now() + $2::interval)`, want[i], off)
	}
	relay.drain(t)
	wantSubjects(t, "published", relay.broker.subjects(), want...)
	if dead := ask[int](t, pool, `SELECT count(*) FROM outbox_dead`); dead != 0 {
		t.Errorf("%d dead letters", dead)
	}
}

// P9: no wake-up ever comes: the relay finds out by itself.
func TestEveryWakeUpMayBeLost(t *testing.T) {
	t.Parallel()
	pool, b := testkit.Postgres(t), &broker{}
	relay := &Relay{Pool: pool, Publisher: b, Log: testkit.Log(t), Wake: make(chan struct{})}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- relay.Run(ctx) }()
	want := numbered("s", 3)
	for i, subject := range want {
		insert(t, pool, "k", subject)
		testkit.Eventually(t, subject, 10*time.Second, func() (bool, string) { return len(b.subjects()) > i, "" })
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	wantSubjects(t, "published", b.subjects(), want...)
}

// P9: a relay of the version before leases, which settles by the position
// alone, may run beside this one while they are replaced one by one. Neither
// moves the position past what the other has not published.
func TestARelayOfTheVersionBeforeMayRunBeside(t *testing.T) {
	t.Parallel()
	pool := testkit.Postgres(t)
	relay := newStepper(t, pool)
	relay.drain(t)
	var from, to string
	old := func() (moved bool) {
		tag, err := pool.Exec(t.Context(), `
			UPDATE outbox_lane SET snap_from = $1::pg_snapshot, snap_to = NULL, pos = 0
			WHERE lane = 0 AND snap_from::text = $2 AND snap_to IS NULL AND pos = 0`, to, from)
		if err != nil {
			t.Fatal(err)
		}
		return tag.RowsAffected() == 1
	}
	look := func() {
		from, to = ask[string](t, pool, `SELECT snap_from::text FROM outbox_lane`), ask[string](t, pool, `SELECT pg_current_snapshot()::text`)
	}

	insert(t, pool, "k", "s.0")
	look() // the old one has published s.0
	relay.broker.answer = func(rows []Row) []Result {
		if !old() {
			t.Error("the old relay could not settle")
		}
		return make([]Result, len(rows))
	}
	insert(t, pool, "k", "s.1")
	if _, err := relay.Relay.pass(t.Context(), relay.reader); !errors.Is(err, errMoved) {
		t.Fatalf("got %v, want %v", err, errMoved)
	}
	relay.broker.answer = nil
	look() // the old one has read s.1, and is slow
	relay.drain(t)
	insert(t, pool, "k", "s.2")
	if old() {
		t.Error("the old relay has moved a position that was not what it had read")
	}
	relay.drain(t)
	wantSubjects(t, "published", relay.broker.subjects(), "s.0", "s.1", "s.1", "s.2")
}

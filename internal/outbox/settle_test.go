package outbox

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/skald-saga/skald/internal/testkit"
)

// P9: what was published but not noted, because the relay died in between, is
// published again under the same message ids; nothing is left out.
func TestARelayThatDiesBetweenPublishingAndNotingPublishesAgain(t *testing.T) {
	t.Parallel()
	pool := testkit.Postgres(t)
	want := numbered("s", 5)
	for _, subject := range want {
		insert(t, pool, "k", subject)
	}
	dead := newStepper(t, pool)
	p, err := dead.next(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	dead.broker.Publish(t.Context(), p.rows) // and no settle
	next := newStepper(t, pool)
	next.drain(t)
	wantSubjects(t, "the dead relay", dead.broker.subjects(), want...)
	wantSubjects(t, "the next relay", next.broker.subjects(), want...)
	ids := func(rows []Row) (ids []uuid.UUID) {
		for _, r := range rows {
			ids = append(ids, r.MsgID)
		}
		return ids
	}
	if !slices.Equal(ids(dead.broker.taken), ids(next.broker.taken)) {
		t.Error("the message ids differ")
	}
	again := newStepper(t, pool)
	again.drain(t)
	wantSubjects(t, "a third relay, when all is noted", again.broker.subjects())
}

// P9: after a failure in the middle of a page the relay goes on exactly there.
func TestAFailureInThePageIsWhereTheNextPageBegins(t *testing.T) {
	t.Parallel()
	pool := testkit.Postgres(t)
	for _, subject := range numbered("s", 5) {
		insert(t, pool, subject, subject)
	}
	relay := newStepper(t, pool)
	relay.broker.answer = func(rows []Row) []Result { // the third fails; the fourth was under way and arrived
		return []Result{{}, {}, {Err: errAway}, {}, {Err: errAway}}
	}
	n, err := relay.Relay.pass(t.Context(), relay.reader)
	if n != 2 || !errors.Is(err, errAway) {
		t.Fatalf("got %d rows and %v, want 2 and %v", n, err, errAway)
	}
	insert(t, pool, "later", "later") // belongs to a later window
	relay.broker.answer = func(rows []Row) []Result { return slices.Repeat([]Result{{Err: errAway}}, len(rows)) }
	if n, err := relay.Relay.pass(t.Context(), relay.reader); n != 0 || !errors.Is(err, errAway) {
		t.Fatalf("got %d rows and %v, want none and %v", n, err, errAway)
	}
	relay.broker.answer = nil
	relay.drain(t)
	for i, want := range [][]string{numbered("s", 5), {"s.2", "s.3", "s.4"}, {"s.2", "s.3", "s.4"}, {"later"}} {
		wantSubjects(t, "an offer", subjects(relay.broker.offers[i]), want...)
	}
}

// P10: a message that the broker will never take becomes a dead letter, in the
// transaction that moves the position; the others flow.
func TestAPoisonedMessageBecomesADeadLetter(t *testing.T) {
	t.Parallel()
	pool := testkit.Postgres(t)
	for _, subject := range numbered("s", 4) {
		insert(t, pool, "k", subject)
	}
	poison := errors.New("never")
	relay := newStepper(t, pool)
	relay.broker.answer = func(rows []Row) []Result {
		results := make([]Result, len(rows))
		for i, r := range rows {
			if r.Subject == "s.1" {
				results[i] = Result{Err: poison, Poison: true}
			}
		}
		return results
	}

	// Another relay moves the position while this one publishes: then the dead
	// letter is not written either.
	p, err := relay.next(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	execute(t, pool, `UPDATE outbox_lane SET snap_to = snap_from, pos = 0`)
	_, dead, _ := judge(p.rows, relay.broker.answer(p.rows), false)
	if err := relay.settle(t.Context(), p, len(p.rows), dead); !errors.Is(err, errMoved) {
		t.Fatalf("got %v, want %v", err, errMoved)
	}
	if n := ask[int](t, pool, `SELECT count(*) FROM outbox_dead`); n != 0 {
		t.Fatalf("%d dead letters although the position was not moved", n)
	}
	execute(t, pool, `UPDATE outbox_lane SET snap_to = NULL`)

	relay.drain(t)
	wantSubjects(t, "published", relay.broker.subjects(), "s.0", "s.2", "s.3")
	wantSubjects(t, "dead letters, with their errors",
		askAll[string](t, pool, `SELECT subject || ': ' || error FROM outbox_dead d WHERE EXISTS (
			SELECT FROM outbox o WHERE (o.seq, o.key, o.msg_id, o.payload, o.created_at) = (d.seq, d.key, d.msg_id, d.payload, d.created_at))`), "s.1: never")
	if !ask[bool](t, pool, `SELECT d.xmin = l.xmin FROM outbox_dead d, outbox_lane l`) {
		t.Error("the dead letter and the position were not written by one transaction")
	}
}

// Whoever waits for an answer to a message that becomes a dead letter is told, in
// the transaction that makes it one: once, in the key's order.
func TestADeadLettersReaderIsTold(t *testing.T) {
	t.Parallel()
	pool := testkit.Postgres(t)
	execute(t, pool, `INSERT INTO outbox (key, subject, headers, payload) VALUES
		('k', 'bad', '{"ce-replyto": "r.0", "ce-effectid": "s/a/action", "ce-attempt": "2", "ce-type": "x", "other": "y"}', ''),
		('k', 'bad', '{}', ''), ('k', 'good', '{"ce-replyto": "r.0"}', '')`)
	relay := newStepper(t, pool)
	relay.broker.answer = func(rows []Row) []Result {
		results := make([]Result, len(rows))
		for i, r := range rows {
			if r.Subject == "bad" {
				results[i] = Result{Err: errors.New("never"), Poison: true}
			}
		}
		return results
	}
	relay.drain(t)
	wantSubjects(t, "published", relay.broker.subjects(), "good", "r.0")
	got := ask[string](t, pool, `SELECT key || (headers::jsonb - 'ce-source')::text || convert_from(payload, 'UTF8') FROM outbox WHERE subject = 'r.0'`)
	const want = `k{"ce-type": "skald.undeliverable.v1", "ce-attempt": "2", "ce-effectid": "s/a/action", "content-type": "application/json"}` +
		`{"code":"undeliverable","message":"never"}`
	if got != want {
		t.Errorf("it is told\n%s, want\n%s", got, want)
	}
	if !ask[bool](t, pool, `SELECT bool_and(d.xmin = o.xmin) FROM outbox_dead d, outbox o WHERE o.subject = 'r.0'`) {
		t.Error("not in the transaction of the dead letter")
	}
}

// P9: two relays at once may publish twice, but neither can move the position
// past what was not published, nor back.
func TestTwoRelaysCannotMoveThePositionPastWhatIsUnpublished(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		slow, fast       int // how many of the page each gets rid of, of 6
		fastSettlesFirst bool
		want             []string // what a third relay still finds
	}{
		"the slow one comes late and has done less": {slow: 2, fast: 6, fastSettlesFirst: true, want: nil},
		"the slow one comes late and has done more": {slow: 6, fast: 2, fastSettlesFirst: true, want: numbered("s", 6)[2:]},
		"the one that did less comes first":         {slow: 2, fast: 6, want: numbered("s", 6)[2:]},
		"the one that did more comes first":         {slow: 6, fast: 2, want: nil},
	} {
		for _, open := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, with an open window: %t", name, open), func(t *testing.T) {
				t.Parallel()
				pool := testkit.Postgres(t)
				insert(t, pool, "k", "first")
				for _, subject := range numbered("s", 6) {
					insert(t, pool, "k", subject)
				}
				takeFirst(t, pool, open)
				slow, fast := newStepper(t, pool), newStepper(t, pool)
				steps := []struct {
					relay *stepper
					done  int
					page  page
				}{{relay: slow, done: c.slow}, {relay: fast, done: c.fast}}
				for i, s := range steps {
					p, err := s.relay.next(t.Context())
					if err != nil {
						t.Fatal(err)
					}
					steps[i].page = p
				}
				if c.fastSettlesFirst {
					slices.Reverse(steps)
				}
				for i, want := range []error{nil, errMoved} {
					if err := steps[i].relay.settle(t.Context(), steps[i].page, steps[i].done, nil); !errors.Is(err, want) {
						t.Fatalf("settle %d: got %v, want %v", i, err, want)
					}
				}
				third := newStepper(t, pool)
				third.drain(t)
				wantSubjects(t, "a third relay", third.broker.subjects(), c.want...)
				for _, s := range []*stepper{slow, fast} { // they find their way back
					s.drain(t)
					wantSubjects(t, "when all was published", s.broker.subjects())
				}
				insert(t, pool, "k", "more")
				slow.drain(t)
				fast.drain(t)
				wantSubjects(t, "the first to look", slow.broker.subjects(), "more")
				wantSubjects(t, "the second", fast.broker.subjects())
			})
		}
	}
}

// takeFirst publishes the first row: in a window of its own, or in one that
// stays open behind it.
func takeFirst(t *testing.T, pool *pgxpool.Pool, open bool) {
	t.Helper()
	s := newStepper(t, pool)
	p, err := s.next(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := s.settle(t.Context(), p, 1, nil); err != nil {
		t.Fatal(err)
	}
	if !open { // as if the others had come later
		execute(t, pool, `UPDATE outbox_lane SET snap_to = NULL, pos = 0`)
		execute(t, pool, `DELETE FROM outbox WHERE subject = 'first'`)
	}
}

// Told to stop, a relay finishes the page that it has handed to the broker, and
// notes what became of it.
func TestARelayThatIsStoppedFinishesItsPage(t *testing.T) {
	t.Parallel()
	pool := testkit.Postgres(t)
	insert(t, pool, "k", "s")
	ctx, cancel := context.WithCancel(t.Context())
	b := &broker{answer: func(rows []Row) []Result {
		cancel() // while the broker is at work
		return make([]Result, len(rows))
	}}
	relay := &Relay{Pool: pool, Publisher: b, Log: testkit.Log(t)}
	if err := relay.Run(ctx); err != nil {
		t.Fatal(err)
	}
	wantSubjects(t, "published", b.subjects(), "s")
	next := newStepper(t, pool)
	next.drain(t)
	wantSubjects(t, "the next relay", next.broker.subjects())
}

// A wake-up is worth a look at once.
func TestAWakeUpIsFollowedByALook(t *testing.T) {
	t.Parallel()
	wake := make(chan struct{}, 1)
	wake <- struct{}{}
	if !wait(t.Context(), wake, time.Hour) {
		t.Error("the wait was not cut short by the wake-up")
	}
	if wait(t.Context(), wake, time.Nanosecond) {
		t.Error("woken twice by one wake-up")
	}
}

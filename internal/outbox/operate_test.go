package outbox

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/skald-saga/skald/internal/testkit"
)

// P4: what was published since a time is published again, in order and under
// the same ids; what was published before is not. A relay that is at work
// cannot move the position on from where it was.
func TestARewindPublishesAgainWhatWasPublishedSince(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		ago      time.Duration
		at       func(now time.Time) time.Time
		want     []string
		complete bool
	}{
		"a while ago":             {ago: 5 * time.Hour, want: []string{"second", "third"}, complete: true},
		"a shorter while ago":     {ago: 3 * time.Hour, want: []string{"third"}, complete: true},
		"at a time":               {at: func(now time.Time) time.Time { return now.Add(-3 * time.Hour) }, want: []string{"third"}, complete: true},
		"longer than all is kept": {ago: 24 * time.Hour, want: []string{"first", "second", "third"}},
		"no time ago":             {want: nil, complete: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			pool := testkit.Postgres(t)
			relay, house := newStepper(t, pool), newRing(t, pool)
			for _, subject := range []string{"first", "second", "third"} {
				insert(t, pool, "k", subject)
				house.publishAll(t, relay)
				house.later(t)
			}
			insert(t, pool, "k", "at hand")
			p, err := relay.next(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if c.want == nil { // at the very position of the relay, which must all the same not move it
				if err := house.note(t.Context(), -1); err != nil {
					t.Fatal(err)
				}
			}
			var at time.Time
			if c.at != nil {
				at = c.at(time.Now())
			}
			lanes, err := Rewind(t.Context(), pool, nil, at, c.ago)
			if err != nil || len(lanes) != 1 || lanes[0].Complete != c.complete {
				t.Fatalf("got %+v and %v, want complete: %t", lanes, err, c.complete)
			}
			if n := ask[int](t, pool, `SELECT count(*) FROM outbox_tick t, outbox_lane l WHERE pg_snapshot_xmax(t.snap_from) > pg_snapshot_xmax(l.snap_from)`); n != 0 {
				t.Errorf("%d notes are of a time after the position", n)
			}
			if err := relay.settle(t.Context(), p, len(p.rows), nil); !errors.Is(err, errMoved) {
				t.Errorf("the relay at work: got %v, want %v", err, errMoved)
			}
			before := slices.Clone(relay.broker.taken)
			relay.drain(t)
			again := relay.broker.taken[len(before):]
			wantSubjects(t, "published again", subjects(again), append(slices.Clone(c.want), "at hand")...)
			for i, r := range again[:len(again)-1] {
				if old := before[len(before)-len(c.want)+i]; r.MsgID != old.MsgID {
					t.Errorf("%s has another id", r.Subject)
				}
			}
		})
	}
}

// While an outbox is rewound no part of its ring is emptied, and what is to be
// published again is not emptied before it was.
func TestARewoundRingIsNotTurned(t *testing.T) {
	t.Parallel()
	pool := testkit.Postgres(t)
	relay, house := newStepper(t, pool), newRing(t, pool)
	insertInto(t, pool, 0, "s.0")
	insertInto(t, pool, 1, "s.1")
	house.publishAll(t, relay)
	house.later(t)
	rewinding := begin(t, pool)
	execute(t, rewinding, `SELECT FROM outbox_ring FOR UPDATE`)
	house.try(t, atWork)
	commit(t, rewinding)
	if _, err := Rewind(t.Context(), pool, nil, time.Time{}, 24*time.Hour); err != nil {
		t.Fatal(err)
	}
	house.later(t)
	house.try(t, tooYoung)
	house.publishAll(t, relay)
	house.try(t, tooYoung)
	house.later(t)
	house.try(t, turned)
	wantSubjects(t, "published", relay.broker.subjects(), "s.0", "s.1", "s.0", "s.1")
}

// The ring is locked while the position is set back.
func TestARewindLocksTheRing(t *testing.T) {
	t.Parallel()
	pool := testkit.Postgres(t)
	turning := begin(t, pool)
	execute(t, turning, `SELECT FROM outbox_ring FOR UPDATE`)
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if _, err := Rewind(ctx, pool, nil, time.Time{}, time.Hour); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v, want it to wait", err)
	}
	commit(t, turning)
	execute(t, pool, `DELETE FROM outbox_tick`)
	if _, err := Rewind(t.Context(), pool, nil, time.Time{}, time.Hour); !errors.Is(err, ErrNothingNoted) {
		t.Errorf("without notes: got %v, want %v", err, ErrNothingNoted)
	}
}

// A rewind waits for whoever changes lanes, and does not stand in his way.
func TestARewindWaitsForWhoChangesLanes(t *testing.T) {
	t.Parallel()
	pool := testkit.Postgres(t)
	execute(t, pool, `SELECT outbox_set_lanes(3)`)
	relay := begin(t, pool)
	execute(t, relay, `UPDATE outbox_lane SET pos = pos WHERE lane = 2`)
	rewound := make(chan error, 1)
	go func() {
		_, err := Rewind(t.Context(), pool, nil, time.Time{}, time.Hour)
		rewound <- err
	}()
	testkit.Eventually(t, "the rewind waits", 10*time.Second, func() (bool, string) {
		return ask[int](t, pool, `SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'`) == 1, ""
	})
	execute(t, relay, `UPDATE outbox_lane SET pos = pos WHERE lane < 2`)
	commit(t, relay)
	if err := <-rewound; err != nil {
		t.Error(err)
	}
}

// The status counts what waits, in the window at hand and behind it.
func TestTheStatusCountsWhatWaits(t *testing.T) {
	t.Parallel()
	pool := testkit.Postgres(t)
	relay := newStepper(t, pool, limits{rows: 2, bytes: 1000, list: 10})
	read := func(backlog, dead int, open bool) LaneStatus {
		t.Helper()
		s, err := ReadStatus(t.Context(), pool)
		if err != nil || len(s.Lanes) != 1 || len(s.Ring) != slots || !s.Ring[0].Current || s.Ring[1].Current {
			t.Fatalf("got %+v and %v", s, err)
		}
		l := s.Lanes[0]
		if l.Backlog != backlog || l.Dead != dead || (l.Window != nil) != open || (l.Oldest == nil) != (backlog == 0) || l.KeptSince == nil {
			t.Errorf("got %+v, want a backlog of %d, %d dead, an open window: %t", l, backlog, dead, open)
		}
		return l
	}
	read(0, 0, false)
	late := begin(t, pool)
	insert(t, late, "k", "late")
	for _, subject := range numbered("s", 5) {
		insert(t, pool, "k", subject)
	}
	oldest := ask[time.Time](t, pool, `SELECT min(created_at) FROM outbox`)
	if l := read(5, 0, false); l.Oldest == nil || !l.Oldest.Equal(oldest) {
		t.Errorf("the oldest is of %v, want %v", l.Oldest, oldest)
	}
	relay.pass(t)
	read(3, 0, true)
	insert(t, pool, "k", "next window")
	commit(t, late)
	read(5, 0, true)
	relay.broker.answer = func(rows []Row) []Result { return slices.Repeat([]Result{{Err: errAway, Poison: true}}, len(rows)) }
	relay.drain(t)
	read(0, 5, false)
}

// Dead letters can be sent again, in their order, or deleted: those that are
// named, or all.
func TestDeadLettersAreSentAgainOrDeleted(t *testing.T) {
	t.Parallel()
	pool := testkit.Postgres(t)
	relay := newStepper(t, pool)
	execute(t, pool, `INSERT INTO outbox_dead (seq, lane, key, msg_id, subject, headers, payload, created_at, error, dead_at)
		SELECT -n, 0, 'k', gen_random_uuid(), 's.' || n, '{"a": "b"}', 'x', now(), 'too large', now() - interval '1 hour' * n FROM generate_series(1, 6) AS n`)
	count := func(what string, want int64, got int64, err error) {
		t.Helper()
		if err != nil || got != want {
			t.Errorf("%s: %d and %v, want %d", what, got, err, want)
		}
	}
	letters, err := DeadLetters(t.Context(), pool, 2)
	if err != nil || len(letters) != 2 || letters[0].Subject != "s.1" || letters[1].Seq != -2 || letters[0].Bytes != 1 || letters[0].Error != "too large" {
		t.Errorf("listed: %+v and %v", letters, err)
	}
	n, err := Redrive(t.Context(), pool, []int64{-2, -5, 99})
	count("sent again", 2, n, err)
	n, err = Purge(t.Context(), pool, []int64{-1, -6}, 0)
	count("deleted", 2, n, err)
	n, err = Purge(t.Context(), pool, nil, 210*time.Minute)
	count("deleted the old", 1, n, err)
	n, err = Redrive(t.Context(), pool, nil)
	count("sent again", 1, n, err)
	if n := ask[int](t, pool, `SELECT count(*) FROM outbox_dead`); n != 0 {
		t.Errorf("%d dead letters are left", n)
	}
	relay.drain(t)
	wantSubjects(t, "published", relay.broker.subjects(), "s.5", "s.2", "s.3")
	if r := relay.broker.taken[0]; string(r.Payload) != "x" || string(r.Headers) != `{"a": "b"}` || r.Key != "k" {
		t.Errorf("published: %+v", r)
	}
}

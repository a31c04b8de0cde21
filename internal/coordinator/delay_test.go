package coordinator_test

import (
	"encoding/json"
	"errors"
	"testing"
	"time"

	"github.com/skald-saga/skald/internal/coordinator"
	"github.com/skald-saga/skald/internal/saga"
)

func (f *fixture) startAt(at time.Time, key *coordinator.IdempotencyKey) (coordinator.Started, error) {
	f.t.Helper()
	return f.c.Start(f.t.Context(), coordinator.StartRequest{Definition: "order", Input: json.RawMessage(`{"n": 1}`), StartAt: at, Key: key})
}

// P2: a delayed saga is accepted at once, visible while it waits, and begins at
// its time, also on a server that was started meanwhile.
func TestADelayedSagaIsAcceptedNowAndBeginsLater(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	at := f.clock.Now().Add(time.Hour)
	started, err := f.startAt(at, nil)
	if err != nil {
		t.Fatal(err)
	}
	s := f.get(started.Saga.ID)
	if s.Status != saga.Running || s.WaitsFor != saga.ForStart || s.StartAt == nil || !s.StartAt.Equal(at) {
		t.Fatalf("it is %s, waits for %q until %v", s.Status, s.WaitsFor, s.StartAt)
	}
	if n := f.count(`SELECT count(*) FROM saga_timer WHERE due_at = $1`, at); n != 1 || len(f.commands()) > 0 {
		t.Errorf("%d timers at its start time", n)
	}
	f.clock.advance(time.Hour - time.Second)
	f.coordinator(nil)
	first := f.await(100 * time.Millisecond)
	if first.EffectTime.Before(at) || f.get(s.ID).WaitsFor != "" {
		t.Errorf("its first command went out at %s, due at %s", first.EffectTime, at)
	}
	f.verifyHistory()
}

func TestADelayedSagaThatIsCancelledNeverBegins(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	started, err := f.startAt(f.clock.Now().Add(time.Hour), nil)
	if err != nil {
		t.Fatal(err)
	}
	s, err := f.c.Cancel(t.Context(), started.Saga.ID, coordinator.Operation{Actor: "ada", Reason: "not needed"})
	if err != nil || s.Status != saga.Compensated || len(f.commands()) > 0 {
		t.Errorf("it is %s: %v", s.Status, err)
	}
	f.verifyHistory()
}

func TestAStartTimeIsBounded(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	now := f.clock.Now()
	for at, want := range map[time.Time]error{
		now.Add(-coordinator.StartLate):                    nil,
		now.Add(-coordinator.StartLate - time.Millisecond): coordinator.ErrStartTime,
		now.Add(coordinator.StartAhead):                    nil,
		now.Add(coordinator.StartAhead + time.Millisecond): coordinator.ErrStartTime,
	} {
		if _, err := f.startAt(at, nil); !errors.Is(err, want) {
			t.Errorf("started at now%+d: %v, want %v", at.Sub(now), err, want)
		}
	}
}

// P8: a repetition is answered with the saga however late it comes, though its
// start time would be refused by then.
func TestARepetitionOfADelayedStartFindsItsSaga(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	key := &coordinator.IdempotencyKey{Route: "r", Key: "k", Fingerprint: [32]byte{1}}
	at := f.clock.Now().Add(time.Minute)
	first, err := f.startAt(at, key)
	if err != nil {
		t.Fatal(err)
	}
	f.clock.advance(time.Hour)
	again, err := f.startAt(at, key)
	if err != nil || !again.Replayed || again.Saga.ID != first.Saga.ID {
		t.Errorf("the repetition gives %+v: %v", again.Saga.ID, err)
	}
	other := *key
	other.Fingerprint[0] = 2
	if _, err := f.startAt(at, &other); !errors.Is(err, coordinator.ErrStartTime) {
		t.Errorf("another request with the key: %v", err)
	}
}

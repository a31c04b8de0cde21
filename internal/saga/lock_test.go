package saga_test

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/skald-saga/skald/internal/saga"
)

const locked = `
name: locked
deadline: 10m
lock: '"customer:" + input.customer'
steps:
  - {name: a, participant: p, action: do-a, compensation: undo-a}
  - {name: v, participant: p, action: do-v, kind: pivot}
`

func TestALockedSagaBeginsWhenItsLockIsGranted(t *testing.T) {
	t.Parallel()
	l := begin(t, locked, `{"customer": "c-42"}`)
	l.wantSent()
	if l.state.WaitsFor() != saga.ForLock || *l.state.Lock != (saga.Lock{Key: "customer:c-42", State: saga.LockWaiting}) {
		t.Fatalf("it waits for %q, its lock is %+v", l.state.WaitsFor(), l.state.Lock)
	}
	d := l.give(saga.Granted{})
	l.wantSent("do-a#1")
	if diff := cmp.Diff([]saga.EntryType{saga.LockGranted, saga.CommandIssued}, types(d)); diff != "" {
		t.Errorf("history: -want +got\n%s", diff)
	}
	wantStale(t, l.give(saga.Granted{}), "it waits for no lock")
}

// The lock is given back at every end, and at no other time.
func TestALockIsHeldUntilTheEnd(t *testing.T) {
	t.Parallel()
	granted := asks(saga.Granted{})
	act := func(step string, o saga.Outcome) func(*life) { return says(step, saga.Action, o) }
	for name, c := range map[string]struct {
		reach func(*life)
		state saga.LockState
	}{
		"in flight":                   {granted, saga.LockHeld},
		"paused":                      {then(granted, asks(saga.Pause{})), saga.LockHeld},
		"being undone":                {then(granted, act("a", saga.Succeeded), act("v", saga.Failed)), saga.LockHeld},
		"stuck":                       {then(granted, act("a", saga.Succeeded), func(l *life) { l.exhaust("v") }), saga.LockHeld},
		"completed":                   {then(granted, act("a", saga.Succeeded), act("v", saga.Succeeded)), saga.LockReleased},
		"compensated":                 {then(granted, act("a", saga.Failed)), saga.LockReleased},
		"abandoned while it is stuck": {then(granted, act("a", saga.Succeeded), func(l *life) { l.exhaust("v") }, asks(saga.Abandon{})), saga.LockReleased},
		"cancelled while it waits":    {asks(saga.Cancel{}), saga.LockReleased},
		"abandoned while it waits":    {asks(saga.Abandon{}), saga.LockReleased},
	} {
		l := begin(t, locked, `{"customer": "c-42"}`)
		c.reach(l)
		if l.state.Lock.State != c.state {
			t.Errorf("%s: the lock is %s, want %s: %s", name, l.state.Lock.State, c.state, l.picture())
		}
	}
}

// 2.1 (11): the deadline of who waits runs, and ends the saga without a command.
func TestTheDeadlineOfASagaThatWaitsForItsLockRuns(t *testing.T) {
	t.Parallel()
	l := begin(t, locked, `{"customer": "c-42"}`)
	l.wake()
	l.want("compensated: a=pending v=pending")
	if len(l.sent) > 0 || l.state.Cause.Code != "deadline" {
		t.Errorf("it sent %v, because of %+v", l.sent, l.state.Cause)
	}
}

// 2.1 (11): a lock is taken when the saga is due.
func TestADelayedSagaWaitsForItsLockOnlyWhenItIsDue(t *testing.T) {
	t.Parallel()
	l := beginWith(t, parse(t, locked), `{"customer": "c-42"}`, saga.Opening{StartAt: t0.Add(time.Hour)})
	wantStale(t, l.give(saga.Granted{}), "it waits for no lock")
	l.wake()
	if l.state.WaitsFor() != saga.ForLock || len(l.sent) > 0 {
		t.Fatalf("it waits for %q and has sent %v", l.state.WaitsFor(), l.sent)
	}
	l.give(saga.Granted{})
	l.wantSent("do-a#1")
}

func TestAPausedSagaTakesItsLockAndIssuesNothing(t *testing.T) {
	t.Parallel()
	l := begin(t, locked, `{"customer": "c-42"}`)
	l.give(saga.Pause{})
	l.give(saga.Granted{})
	l.wantSent()
	l.give(saga.Resume{})
	l.wantSent("do-a#1")
}

func TestAnEmptyKeyMeansNoLock(t *testing.T) {
	t.Parallel()
	l := begin(t, strings.Replace(locked, `'"customer:" + input.customer'`, `'has(input.customer) ? input.customer : ""'`, 1), `{}`)
	l.wantSent("do-a#1")
	if l.state.Lock != nil {
		t.Errorf("its lock is %+v", l.state.Lock)
	}
}

func TestALockWithoutAKeyRefusesTheStart(t *testing.T) {
	t.Parallel()
	def := parse(t, locked)
	for name, input := range map[string]string{
		"nothing to make it of": `{}`, "a number": `{"customer": 42}`, "too long": `{"customer": "` + strings.Repeat("x", 250) + `"}`,
		"a NUL": `{"customer": "\u0000"}`,
	} {
		_, err := saga.Start(def, id, json.RawMessage(input), t0)
		var refused *saga.LockError
		if !errors.As(err, &refused) || refused.Expression != `"customer:" + input.customer` {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := saga.Start(def, id, json.RawMessage(`{"customer": "`+strings.Repeat("x", 245)+`"}`), t0); err != nil {
		t.Errorf("a key of 255 bytes: %v", err)
	}
}

func TestALockThatCannotGiveAKeyIsRefusedInTheDefinition(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"1 + 1":      "lock: must be a text, is int",
		"steps.a.id": "lock: undeclared reference to 'steps'",
	} {
		_, err := saga.Parse([]byte("name: d\nlock: " + text + "\nsteps: [{name: a, participant: p, action: do, compensation: undo}]"))
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("lock %s: %v, want %q", text, err, want)
		}
	}
}

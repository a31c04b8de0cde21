package saga_test

import (
	"encoding/json"
	"testing"

	"github.com/skald-saga/skald/internal/saga"
)

// A notification has succeeded when it is written: nobody waits for an answer,
// nothing undoes it, and one that cannot be made stops nobody.
func TestANotificationDecidesNothing(t *testing.T) {
	t.Parallel()
	const text = `
name: notify
steps:
  - {name: a, participant: p, action: do-a, compensation: undo-a}
  - {name: n, participant: p, action: tell, kind: notification}
  - {name: v, participant: p, action: do-v, kind: pivot}
  - {name: m, participant: p, action: tell, kind: notification, payload: input.nothing}`
	l := begin(t, text, `{}`)
	l.act("a", saga.Succeeded)
	l.wantSent("tell#1", "do-v#1")
	l.want("running: a=succeeded n=succeeded v=running m=pending")
	for _, outcome := range []saga.Outcome{saga.Succeeded, saga.Failed, saga.Retry, saga.InProgress} {
		wantStale(t, l.act("n", outcome), "the step is succeeded")
	}
	l.act("v", saga.Succeeded)
	l.want("completed: a=succeeded n=succeeded v=succeeded m=failed")
	if f := l.step("m").Error; f == nil || f.Code != "expression" {
		t.Errorf("the error of the one that could not be made is %+v", f)
	}

	l = begin(t, text, `{}`)
	l.act("a", saga.Succeeded)
	l.act("v", saga.Failed)
	l.wantSent("undo-a#1")
	l.undo("a", saga.Succeeded)
	l.want("compensated: a=compensated n=succeeded v=failed m=pending")
}

// A step without an action is there to be undone.
func TestAStepWithoutAnActionIsOnlyUndone(t *testing.T) {
	t.Parallel()
	const text = `
name: undo
steps:
  - {name: u, participant: p, action: none, compensation: undo-u}
  - {name: b, participant: p, action: do-b, compensation: none}`
	l := begin(t, text, `{}`)
	l.want("running: u=succeeded b=running")
	l.wantSent("do-b#1")
	l.act("b", saga.Failed)
	l.wantSent("undo-u#1")
	if c := l.latest[0]; c.ActionOutcome != saga.Succeeded || c.ActionGen != 1 || c.Generation != 1 {
		t.Errorf("the compensation is told %+v", c)
	}
	l.undo("u", saga.Succeeded)
	l.want("compensated: u=compensated b=failed")
}

func TestNoMoreStepsAreInFlightThanAllowed(t *testing.T) {
	t.Parallel()
	l := begin(t, `
name: narrow
max_parallel: 2
steps:
  - {name: a, participant: p, action: do-a, compensation: undo-a, after: []}
  - {name: b, participant: p, action: do-b, compensation: undo-b, after: []}
  - {name: n, participant: p, action: tell, kind: notification, after: []}
  - {name: c, participant: p, action: do-c, compensation: undo-c, after: []}
  - {name: d, participant: p, action: do-d, compensation: none}`, `{}`)
	l.wantSent("do-a#1", "do-b#1", "tell#1") // what is not awaited takes no room
	l.act("a", saga.Retry)
	l.wantSent() // what waits for its next attempt is still in flight
	l.act("b", saga.Succeeded)
	l.wantSent("do-c#1")
	l.act("a", saga.Succeeded)
	l.act("c", saga.Succeeded)
	l.wantSent("do-d#1")
	l.act("d", saga.Failed)
	l.wantSent("undo-c#1", "undo-b#1")
	l.undo("b", saga.Succeeded)
	l.wantSent("undo-a#1")
}

// A saga of nothing but notifications is completed when it is started.
func TestASagaOfNotificationsEndsAtOnce(t *testing.T) {
	t.Parallel()
	d, err := saga.Start(parse(t, "name: tell\nsteps: [{name: n, participant: p, action: tell, kind: notification}]"), id, json.RawMessage(`{}`), t0)
	if err != nil || d.Next.Status != saga.Completed || len(d.Commands) != 1 {
		t.Errorf("started: %+v, %v", d, err)
	}
}

package saga_test

import (
	"testing"
	"time"

	"github.com/skald-saga/skald/internal/saga"
)

// Two branches of different participants, and a pivot behind them.
const branches = `
name: branches
deadline: 1h
steps:
  - {name: a, participant: p, action: do-a, compensation: undo-a, after: [], retry: {max_attempts: 2}, compensation_retry: {max_attempts: 1}}
  - {name: b, participant: q, action: do-b, compensation: undo-b, after: [], retry: {max_attempts: 2}}
  - {name: v, participant: p, action: do-v, kind: pivot, after: [a, b], retry: {max_attempts: 1}}
`

// hold says which participants get no commands from now on, and lets the saga
// notice.
func (l *life) hold(participants ...string) saga.Decision {
	l.t.Helper()
	l.held = participants
	return l.give(saga.Tick{})
}

func TestAHeldParticipantGetsNoCommandsAndOthersDo(t *testing.T) {
	t.Parallel()
	l := beginWith(t, parse(t, branches), `{}`, saga.Opening{Held: []string{"p"}})
	l.held = []string{"p"}
	l.wantSent("do-b#1")
	l.want("running: a=held b=running v=pending")
	l.act("b", saga.Succeeded)
	l.wantSent()
	wantStale(t, l.give(saga.Tick{}), "nothing is due")
	l.hold()
	l.wantSent("do-a#1")
	l.want("running: a=running b=succeeded v=pending")
}

// What a held participant has already may still be answered; until then no
// time runs for it, and afterwards it is waited for afresh.
func TestAHeldParticipantSpendsNoAttempt(t *testing.T) {
	t.Parallel()
	l := begin(t, branches, `{}`)
	l.act("b", saga.Succeeded)
	l.held = []string{"p"}
	l.now = l.step("a").DueAt
	l.give(saga.Tick{})
	l.want("running: a=running b=succeeded v=pending") // it is in flight, after all
	if at := l.state.WakeAt(); !at.Equal(l.state.DeadlineAt) {
		t.Errorf("the saga wants to be woken at %s", at)
	}
	l.now = l.now.Add(10 * time.Minute)
	l.hold()
	l.wantSent()
	if st := l.step("a"); st.Attempt != 1 || st.Held || !st.DueAt.Equal(l.now.Add(l.def.Steps[0].Timeout)) {
		t.Errorf("after the hold: %+v", st)
	}
	l.held = []string{"p"}
	l.now = l.step("a").DueAt
	l.give(saga.Tick{})
	l.act("a", saga.Succeeded)
	l.want("running: a=succeeded b=succeeded v=held")
}

func TestTheNextAttemptOfAHeldParticipantIsWithheld(t *testing.T) {
	t.Parallel()
	l := begin(t, branches, `{}`)
	l.act("a", saga.Retry)
	l.held = []string{"p"}
	l.now = l.step("a").DueAt
	l.give(saga.Tick{})
	l.wantSent()
	l.want("running: a=held b=running v=pending")
	if saga.Allowed(l.def, l.state)[1] == "retry" {
		t.Error("retry is offered for what is withheld")
	}
	l.hold()
	l.wantSent("do-a#2")
	// It says that it is at work after all: nothing is to be sent.
	l = begin(t, branches, `{}`)
	l.act("a", saga.Retry)
	l.held = []string{"p"}
	l.now = l.step("a").DueAt
	l.give(saga.Tick{})
	l.act("a", saga.InProgress)
	l.want("running: a=running b=running v=pending")
	l.hold()
	l.wantSent()
}

func TestCompensationsOfAHeldParticipantAreWithheld(t *testing.T) {
	t.Parallel()
	l := begin(t, branches, `{}`)
	l.act("a", saga.Succeeded)
	l.held = []string{"p"}
	l.act("b", saga.Failed)
	l.wantSent()
	l.want("compensating: a=held b=failed v=pending")
	l.hold()
	l.wantSent("undo-a#1")
	l.undo("a", saga.Succeeded)
	l.want("compensated: a=compensated b=failed v=pending")
}

// What turns back is not sent any more: it is not withheld either.
func TestAStepThatWasWithheldIsForgottenOnTheWayBack(t *testing.T) {
	t.Parallel()
	l := beginWith(t, parse(t, branches), `{}`, saga.Opening{Held: []string{"p"}})
	l.held = []string{"p"}
	l.give(saga.Cancel{})
	l.want("compensating: a=pending b=running v=pending")
	l.act("b", saga.Failed)
	l.want("compensated: a=pending b=failed v=pending")
}

func TestAnOperatorsRetryWaitsForAHeldParticipant(t *testing.T) {
	t.Parallel()
	l := begin(t, branches, `{}`)
	l.act("a", saga.Succeeded)
	l.act("b", saga.Succeeded)
	l.exhaust("v")
	l.held = []string{"p"}
	l.give(saga.TryNow{Step: "v", Actor: "ada"})
	l.wantSent()
	l.want("stuck: a=succeeded b=succeeded v=stuck")
	wantIllegal(t, l.give(saga.TryNow{Step: "v"}), saga.IllegalNothingToRetry)
	l.hold()
	l.wantSent("do-v#2")
	l.want("running: a=succeeded b=succeeded v=running")
}

func TestAPausedSagaIsNotReleased(t *testing.T) {
	t.Parallel()
	l := begin(t, branches, `{}`)
	l.act("a", saga.Retry)
	l.held = []string{"p"}
	l.now = l.step("a").DueAt
	l.give(saga.Tick{})
	l.give(pause)
	l.held = nil
	l.act("b", saga.Succeeded)
	l.wantSent()
	l.give(resume)
	l.wantSent("do-a#2")
}

// When the pause ends and there is no room for the step yet, it waits for that
// alone: the next pause must find it as any other.
func TestAStepThatIsReleasedMayHaveToWaitForRoom(t *testing.T) {
	t.Parallel()
	l := begin(t, `
name: narrow
max_parallel: 1
steps:
  - {name: a, participant: p, action: do-a, compensation: undo-a, after: []}
  - {name: b, participant: q, action: do-b, compensation: undo-b, after: []}
  - {name: c, participant: p, action: do-c, compensation: undo-c, after: []}
`, `{}`)
	l.held = []string{"q"}
	l.act("a", saga.Succeeded)
	l.wantSent("do-c#1")
	l.want("running: a=succeeded b=held c=running")
	l.hold()
	l.want("running: a=succeeded b=pending c=running")
	l.held = []string{"q"}
	l.act("c", saga.Succeeded)
	l.want("running: a=succeeded b=held c=succeeded")
	l.hold()
	l.wantSent("do-b#1")
}

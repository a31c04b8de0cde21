package saga_test

import (
	"testing"
	"time"

	"github.com/skald-saga/skald/internal/saga"
)

// The hard cases of the design (2.1), in its order.

// (1) A timer fires iff the state awaits exactly that: another branch's
// transitions neither disturb it nor set it off.
func TestHardCase1TimersBelongToTheirAttempt(t *testing.T) {
	t.Parallel()
	l := begin(t, parallel, `{}`)
	due := l.step("a").DueAt
	l.now = t0.Add(5 * time.Second)
	l.act("b", saga.Retry) // another branch moves on
	l.now = l.step("b").DueAt
	l.give(saga.Tick{})
	l.wantSent("do-b#2")
	if !l.step("a").DueAt.Equal(due) {
		t.Errorf("the other branch moved the timer to %s", l.step("a").DueAt)
	}
	l.now = due
	l.give(saga.Tick{}) // the first attempt of a, and of a alone
	if a, b := l.step("a"), l.step("b"); !a.Waiting || b.Waiting || b.Attempt != 2 {
		t.Errorf("after a's timeout: a %+v, b %+v", a, b)
	}
	resend := l.step("a").DueAt
	l.act("a", saga.Succeeded)
	l.now = resend
	wantStale(t, l.give(saga.Tick{}), "nothing is due") // a was answered
}

// (2) While the pivot is in flight, cancel and deadline are only recorded.
func TestHardCase2ThePivotInFlightDecides(t *testing.T) {
	t.Parallel()
	asked := map[string]func(l *life){
		"cancelled": func(l *life) {
			if d := l.give(saga.Cancel{Reason: "no", Actor: "alice"}); d.Illegal != "" || d.Ignored != "" {
				l.t.Fatalf("refused: %+v", d)
			}
		},
		"past its deadline": func(l *life) { keepAtWork(l, "v", 10*time.Minute); l.wake() },
		"both": func(l *life) {
			l.give(saga.Cancel{})
			keepAtWork(l, "v", 10*time.Minute)
			l.wake()
		},
	}
	for name, ask := range asked {
		for outcome, c := range map[string]struct {
			then  func(l *life)
			after string
		}{
			"failed":    {func(l *life) { l.act("v", saga.Failed) }, "compensating: a=compensating v=failed r=pending"},
			"succeeded": {func(l *life) { l.act("v", saga.Succeeded) }, "running: a=succeeded v=succeeded r=running"},
			"exhausted": {func(l *life) { l.exhaust("v") }, "stuck: a=succeeded v=stuck r=pending"},
		} {
			t.Run(name+", then "+outcome, func(t *testing.T) {
				t.Parallel()
				l := begin(t, pivoted, `{}`)
				l.act("a", saga.Succeeded)
				ask(l)
				l.want("running: a=succeeded v=running r=pending")
				if !l.state.CancelRequested || l.state.Cause != nil {
					t.Fatalf("requested %v, cause %+v", l.state.CancelRequested, l.state.Cause)
				}
				l.wantSent()
				c.then(l)
				l.want(c.after)
				// The deadline that passed on the way is not forgotten.
				if late := name != "cancelled" && outcome == "succeeded"; l.state.Overdue != late {
					t.Errorf("overdue %v, want %v", l.state.Overdue, late)
				}
			})
		}
	}
}

// (2) A cancel that the pivot overtook leaves the deadline in force.
func TestHardCase2ADeadlineOutlivesACancelThatCameTooLate(t *testing.T) {
	t.Parallel()
	l := begin(t, pivoted, `{}`)
	l.act("a", saga.Succeeded)
	l.give(saga.Cancel{})
	l.act("v", saga.Succeeded)
	keepAtWork(l, "r", 10*time.Minute)
	l.wake()
	if !l.state.Overdue {
		t.Error("the deadline passed after the pivot and nobody says so")
	}
}

// (2) A stuck pivot compensates nothing: somebody has to find out.
func TestHardCase2AStuckPivotCompensatesNothing(t *testing.T) {
	t.Parallel()
	l := begin(t, pivoted, `{}`)
	l.act("a", saga.Succeeded)
	l.exhaust("v")
	l.want("stuck: a=succeeded v=stuck r=pending")
	for _, c := range l.sent {
		if c.Phase == saga.Compensation {
			t.Errorf("%s was sent", c.Operation)
		}
	}
}

// (3) When the saga turns back, steps in flight are settled first: an answer,
// or the end of the wait, but no new attempt.
func TestHardCase3SiblingsInFlightAreSettledFirst(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		settle func(l *life)
		after  string
		told   saga.Outcome // what the compensation of b is told; empty: there is none
	}{
		"it succeeds":         {func(l *life) { l.act("b", saga.Succeeded) }, "compensating: a=failed b=compensating c=pending", saga.Succeeded},
		"it fails":            {func(l *life) { l.act("b", saga.Failed) }, "compensated: a=failed b=failed c=pending", ""},
		"it says try again":   {func(l *life) { l.act("b", saga.Retry) }, "compensating: a=failed b=compensating c=pending", saga.OutcomeUnknown},
		"it says nothing":     {func(l *life) { l.wake() }, "compensating: a=failed b=compensating c=pending", saga.OutcomeUnknown},
		"it is at work first": {func(l *life) { l.act("b", saga.InProgress); l.wake() }, "compensating: a=failed b=compensating c=pending", saga.OutcomeUnknown},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := begin(t, parallel, `{}`)
			l.now = t0.Add(5 * time.Second)
			l.act("a", saga.Failed)
			l.want("compensating: a=failed b=running c=pending")
			l.wantSent()
			c.settle(l)
			l.want(c.after)
			if c.told == "" {
				l.wantSent()
				return
			}
			l.wantSent("undo-b#1")
			if got := l.command("b", saga.Compensation).ActionOutcome; got != c.told {
				t.Errorf("the compensation is told %q, want %q", got, c.told)
			}
		})
	}
}

// (3) A step at work cannot hold the way back up for longer than its
// max_duration.
func TestHardCase3SettlingIsCappedByMaxDuration(t *testing.T) {
	t.Parallel()
	l := begin(t, `
name: capped
steps:
  - {name: a, participant: p, action: do-a, compensation: undo-a, after: []}
  - {name: b, participant: p, action: do-b, compensation: undo-b, after: [], max_duration: 1m}`, `{}`)
	l.act("a", saga.Failed)
	for range 100 {
		l.act("b", saga.InProgress)
		if l.step("b").Status != saga.StepRunning {
			break
		}
		if l.step("b").DueAt.After(t0.Add(time.Minute)) {
			t.Fatalf("waits until %s", l.step("b").DueAt)
		}
		l.now = l.step("b").DueAt.Add(-time.Second)
		if l.step("b").DueAt.Equal(t0.Add(time.Minute)) {
			l.wake()
		}
	}
	l.want("compensating: a=failed b=compensating")
}

// (4) A step given up whose compensation is not sent yet may turn out either way.
func TestHardCase4LateRepliesToUnknownSteps(t *testing.T) {
	t.Parallel()
	// a is given up while b is still in flight.
	unknown := func(t *testing.T) *life {
		l := begin(t, parallel, `{}`)
		l.act("a", saga.Retry)
		l.act("b", saga.InProgress)
		l.give(saga.Cancel{})
		l.want("compensating: a=unknown b=running c=pending")
		return l
	}
	t.Run("a late success stores its result", func(t *testing.T) {
		t.Parallel()
		l := unknown(t)
		r := answer(l.command("a", saga.Action), saga.Succeeded)
		r.Result = []byte(`{"id":1}`)
		l.give(r)
		l.want("compensating: a=succeeded b=running c=pending")
		l.act("b", saga.Failed)
		c := l.command("a", saga.Compensation)
		if c.ActionOutcome != saga.Succeeded || string(c.Payload) != `{"input":{},"steps":{"a":{"id":1}}}` {
			t.Errorf("the compensation is told %s, %s", c.ActionOutcome, c.Payload)
		}
	})
	t.Run("a late failure cancels the compensation", func(t *testing.T) {
		t.Parallel()
		l := unknown(t)
		l.act("a", saga.Failed)
		l.act("b", saga.Failed)
		l.want("compensated: a=failed b=failed c=pending")
	})
	t.Run("once the compensation is sent, both are stale", func(t *testing.T) {
		t.Parallel()
		l := unknown(t)
		l.act("b", saga.Failed)
		l.want("compensating: a=compensating b=failed c=pending")
		wantStale(t, l.act("a", saga.Succeeded), "the step is compensating")
		wantStale(t, l.act("a", saga.Failed), "the step is compensating")
		l.undo("a", saga.Succeeded)
		l.want("compensated: a=compensated b=failed c=pending")
		wantStale(t, l.act("a", saga.Succeeded), "the saga is compensated")
	})
	t.Run("what is at work after it was given up is stale", func(t *testing.T) {
		t.Parallel()
		wantStale(t, unknown(t).act("a", saga.InProgress), "the step is unknown")
		wantStale(t, unknown(t).act("a", saga.Retry), "the step is unknown")
	})
}

// (4) A stuck pivot or retriable step accepts a late reply.
func TestHardCase4AStuckStepAcceptsALateReply(t *testing.T) {
	t.Parallel()
	l := begin(t, pivoted, `{}`)
	l.act("a", saga.Succeeded)
	l.exhaust("v")
	l.act("v", saga.Succeeded)
	l.want("running: a=succeeded v=succeeded r=running")
	l.exhaust("r")
	l.want("stuck: a=succeeded v=succeeded r=stuck")
	wantStale(t, l.act("r", saga.Failed), "the step is stuck") // which is what it says already
	l.act("r", saga.Succeeded)
	l.want("completed: a=succeeded v=succeeded r=succeeded")

	l = begin(t, pivoted, `{}`)
	l.act("a", saga.Succeeded)
	l.exhaust("v")
	l.act("v", saga.Failed)
	l.want("compensating: a=compensating v=failed r=pending")
	l.wantSent("undo-a#1")
}

// (5) Succeeded and failed match by effect id: whichever attempt they answer,
// and if the next one is already scheduled.
func TestHardCase5FinalRepliesMatchByEffectID(t *testing.T) {
	t.Parallel()
	for _, outcome := range []saga.Outcome{saga.Succeeded, saga.Failed} {
		after := map[saga.Outcome]string{saga.Succeeded: "running: a=succeeded b=running c=pending", saga.Failed: "compensated: a=failed b=pending c=pending"}[outcome]
		earlier := begin(t, linear, `{}`)
		first := earlier.command("a", saga.Action)
		earlier.wake()
		earlier.wake()
		earlier.wantSent("do-a#2")
		earlier.give(answer(first, outcome))
		earlier.want(after)

		unnumbered := begin(t, linear, `{}`)
		r := answer(unnumbered.sent[0], outcome)
		r.Attempt = 0
		unnumbered.give(r)
		unnumbered.want(after)

		backingOff := begin(t, linear, `{}`)
		backingOff.act("a", saga.Retry)
		backingOff.act("a", outcome)
		backingOff.want(after)
	}
}

// (5) The same for a retriable step: what has definitively failed while a
// resend was scheduled must not be sent again under the same effect id.
func TestHardCase5ARetriableStepThatFailedDuringABackoffIsANewEffect(t *testing.T) {
	t.Parallel()
	l := begin(t, pivoted, `{}`)
	l.act("a", saga.Succeeded)
	l.act("v", saga.Succeeded)
	l.wake() // the first attempt times out
	l.act("r", saga.Failed)
	l.wake()
	l.wantSent("do-r~2#2")
}

// (5) Retry and in_progress speak of one attempt; left out, of the current one.
func TestHardCase5PassingRepliesMatchByAttempt(t *testing.T) {
	t.Parallel()
	l := begin(t, linear, `{}`)
	l.act("a", saga.Retry)
	l.wake()
	for _, outcome := range []saga.Outcome{saga.Retry, saga.InProgress} {
		r := answer(l.command("a", saga.Action), outcome)
		r.Attempt = 1
		wantStale(t, l.give(r), "attempt 2 is awaited")
	}
	r := answer(l.command("a", saga.Action), saga.Retry)
	r.Attempt = 0
	l.give(r)
	l.want("compensating: a=compensating b=pending c=pending") // its second and last
}

// (5) A participant that is at work after all needs no resend.
func TestHardCase5InProgressDuringABackoffCancelsTheResend(t *testing.T) {
	t.Parallel()
	l := begin(t, linear, `{}`)
	l.wake()
	backoff := l.step("a").DueAt
	l.act("a", saga.InProgress)
	if st := l.step("a"); st.Waiting || !st.DueAt.Equal(l.now.Add(10*time.Second)) {
		t.Errorf("the step is %+v", st)
	}
	l.now = backoff
	wantStale(t, l.give(saga.Tick{}), "nothing is due")
	l.wake()
	if st := l.step("a"); !st.Waiting || st.Attempt != 1 {
		t.Errorf("after the extended wait the step is %+v", st)
	}
}

// (6) A timeout of a command that has not left the outbox spends no attempt.
func TestHardCase6BudgetsDoNotBurnUnpublished(t *testing.T) {
	t.Parallel()
	l := begin(t, linear, `{}`)
	for range 100 {
		l.now = l.now.Add(time.Minute)
		wantStale(t, l.give(saga.Tick{Publication: saga.Withheld}), "nothing is due")
	}
	if l.state.WakeAt().IsZero() {
		t.Fatal("nothing will wake it")
	}
	l.give(saga.Tick{Publication: saga.JustPublished})
	if st := l.step("a"); st.Attempt != 1 || st.Waiting || !st.DueAt.Equal(l.now.Add(10*time.Second)) {
		t.Errorf("the wait did not begin afresh: %+v", st)
	}
	l.wake()
	l.wake()
	l.wantSent("do-a#2")
}

// (6) What is due besides the command goes on while it is withheld.
func TestHardCase6TheDeadlineRunsWhileCommandsAreWithheld(t *testing.T) {
	t.Parallel()
	l := begin(t, pivoted, `{}`)
	l.now = t0.Add(10 * time.Minute)
	l.give(saga.Tick{Publication: saga.Withheld})
	l.want("compensating: a=running v=pending r=pending")
}

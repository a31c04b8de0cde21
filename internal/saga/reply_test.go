package saga_test

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/skald-saga/skald/internal/saga"
)

// P3: a definitive failure means that there was no effect, so the step itself
// is not compensated; those before it are, the latest first.
func TestAFailedStepIsNotCompensatedButThoseBeforeItAreInReverse(t *testing.T) {
	t.Parallel()
	l := begin(t, linear, `{}`)
	l.act("a", saga.Succeeded)
	l.act("b", saga.Succeeded)
	no := answer(l.command("c", saga.Action), saga.Failed)
	no.Failure = &saga.Failure{Code: "sold_out", Message: "none left"}
	l.give(no)
	l.want("compensating: a=succeeded b=compensating c=failed")
	l.wantSent("undo-b#1")
	if want := (&saga.Failure{Code: "sold_out", Message: "none left", Step: "c"}); !cmp.Equal(l.state.Cause, want) {
		t.Errorf("cause %+v, want %+v", l.state.Cause, want)
	}
	if c := l.command("b", saga.Compensation); c.ActionOutcome != saga.Succeeded || c.ActionGen != 1 {
		t.Errorf("the compensation is told %+v", c)
	}
	l.undo("b", saga.Succeeded)
	l.wantSent("undo-a#1")
	l.undo("a", saga.Succeeded)
	l.want("compensated: a=compensated b=compensated c=failed")
}

// P3: an action that may have happened is compensated.
func TestAStepWhoseOutcomeIsUnknownIsCompensatedToo(t *testing.T) {
	t.Parallel()
	for name, giveUp := range map[string]func(l *life){
		"no attempt was answered":      func(l *life) { l.exhaust("b") },
		"every attempt said try again": func(l *life) { l.act("b", saga.Retry); l.wake(); l.act("b", saga.Retry) },
		"the last attempt was silent":  func(l *life) { l.act("b", saga.Retry); l.wake(); l.wake() },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := begin(t, linear, `{}`)
			l.act("a", saga.Succeeded)
			giveUp(l)
			l.want("compensating: a=succeeded b=compensating c=pending")
			if c := l.command("b", saga.Compensation); c.ActionOutcome != saga.OutcomeUnknown || c.ActionGen != 1 {
				t.Errorf("the compensation is told %+v", c)
			}
			l.undo("b", saga.Succeeded)
			l.undo("a", saga.Succeeded)
			l.want("compensated: a=compensated b=compensated c=pending")
		})
	}
}

// P5: attempts share the effect id, and the time of its first command.
func TestAnotherAttemptIsTheSameEffect(t *testing.T) {
	t.Parallel()
	l := begin(t, linear, `{"x":1}`)
	first := l.command("a", saga.Action)
	l.act("a", saga.Retry)
	l.want("running: a=running b=pending c=pending")
	l.wantSent()
	l.wake()
	l.wantSent("do-a#2")
	second := l.command("a", saga.Action)
	if second.Generation != first.Generation || !second.EffectTime.Equal(first.EffectTime) || string(second.Payload) != string(first.Payload) {
		t.Errorf("the second attempt is another effect:\n%+v\n%+v", first, second)
	}
	if !second.NotAfter.Equal(first.NotAfter) {
		t.Errorf("the second attempt is not after %s, the first not after %s", second.NotAfter, first.NotAfter)
	}
}

func TestAParticipantsWishToWaitIsHonoured(t *testing.T) {
	t.Parallel()
	l := begin(t, linear, `{}`)
	r := answer(l.sent[0], saga.Retry)
	r.RetryAfter = 2 * time.Hour // longer than any backoff of its policy
	l.give(r)
	if due := l.step("a").DueAt; !due.Equal(t0.Add(2 * time.Hour)) {
		t.Errorf("the next attempt is due at %s", due)
	}
	// A wish that is shorter than the backoff does not shorten it.
	patient := `
name: patient
steps: [{name: a, participant: p, action: do, compensation: none, retry: {initial: 1h, max: 1h}}]`
	long := begin(t, patient, `{}`)
	backoff := long.act("a", saga.Retry).History[0].DueAt
	short := begin(t, patient, `{}`)
	r = answer(short.sent[0], saga.Retry)
	r.RetryAfter = time.Millisecond
	if due := short.give(r).History[0].DueAt; !due.Equal(backoff) {
		t.Errorf("with a short wish the next attempt is due at %s, without at %s", due, backoff)
	}
}

func TestInProgressExtendsTheWait(t *testing.T) {
	t.Parallel()
	const text = `
name: slow
steps: [{name: a, participant: p, action: do, compensation: none, timeout: 10s, max_duration: 1m}]`
	extend := func(l *life, by time.Duration) saga.Decision {
		r := answer(l.sent[0], saga.InProgress)
		r.Extend = by
		return l.give(r)
	}
	for _, c := range []struct {
		name string
		at   time.Duration // after the start
		by   time.Duration
		due  time.Duration // after the start; 0: the reply is stale
	}{
		{"by the step's timeout if it does not say", 5 * time.Second, 0, 15 * time.Second},
		{"by what it asks for", 5 * time.Second, 30 * time.Second, 35 * time.Second},
		{"not beyond the longest duration", 5 * time.Second, time.Hour, time.Minute},
		{"never to an earlier time", 5 * time.Second, time.Second, 0},
		{"not when the longest duration is over", time.Minute, time.Hour, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			l := begin(t, text, `{}`)
			l.now = t0.Add(c.at)
			d := extend(l, c.by)
			if c.due == 0 {
				wantStale(t, d, "the deadline cannot be extended further")
			} else if due := l.step("a").DueAt; !due.Equal(t0.Add(c.due)) {
				t.Errorf("due %s after the start, want %s", due.Sub(t0), c.due)
			}
			if l.step("a").Attempt != 1 || len(l.sent) != 1 {
				t.Errorf("waiting longer spent an attempt")
			}
		})
	}
}

// A retriable step that definitively failed is tried again, as another effect:
// a participant answers a known effect id with its stored reply.
func TestARetriableStepIsTriedAgainAsANewEffect(t *testing.T) {
	t.Parallel()
	l := begin(t, pivoted, `{}`)
	l.act("a", saga.Succeeded)
	l.act("v", saga.Succeeded)
	l.act("r", saga.Failed)
	l.want("running: a=succeeded v=succeeded r=running")
	l.wantSent()
	l.wake()
	l.wantSent("do-r~2#2")
	if c := l.command("r", saga.Action); !c.EffectTime.Equal(l.now) {
		t.Errorf("the new effect is first issued at %s, want now, %s", c.EffectTime, l.now)
	}
	l.act("r", saga.Retry) // a transient error keeps the effect id
	l.wake()
	l.wantSent("do-r~2#3")
	l.act("r", saga.Succeeded)
	l.want("completed: a=succeeded v=succeeded r=succeeded")
}

func TestARetriableStepWithoutAnotherAttemptIsStuck(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		outcome saga.Outcome
		code    string
	}{"after a definitive failure": {saga.Failed, "failed"}, "after a transient error": {saga.Retry, "retry"}} {
		l := begin(t, pivoted, `{}`)
		l.act("a", saga.Succeeded)
		l.act("v", saga.Succeeded)
		for range 2 {
			l.act("r", c.outcome)
			l.wake()
		}
		l.act("r", c.outcome)
		l.want("stuck: a=succeeded v=succeeded r=stuck")
		if e := l.step("r").Error; e == nil || e.Code != c.code || e.Step != "r" {
			t.Errorf("%s: the error is %+v", name, e)
		}
		if l.state.Cause != nil {
			t.Errorf("%s: a saga past its pivot turned back", name)
		}
	}
}

func TestACompensationIsRetriedAndThenStuck(t *testing.T) {
	t.Parallel()
	for _, outcome := range []saga.Outcome{saga.Retry, saga.Failed} { // a compensation cannot fail for good
		l := begin(t, linear, `{}`)
		l.act("a", saga.Succeeded)
		l.act("b", saga.Failed)
		first := l.command("a", saga.Compensation)
		l.undo("a", outcome)
		l.want("compensating: a=compensating b=failed c=pending")
		l.wake()
		l.wantSent("undo-a#2")
		if second := l.command("a", saga.Compensation); second.Generation != 1 || !second.EffectTime.Equal(first.EffectTime) {
			t.Errorf("the second attempt is another effect: %+v", second)
		}
		l.undo("a", outcome)
		l.want("stuck: a=stuck b=failed c=pending")
		if st := l.step("a"); st.Phase != saga.Compensation || st.Error == nil {
			t.Errorf("the stuck step says %+v", st)
		}
		// It may still turn out to have worked.
		l.undo("a", saga.Succeeded)
		l.want("compensated: a=compensated b=failed c=pending")
	}
}

// P6: every stale reply has a reason, and changes nothing (see life.give).
func TestStaleRepliesHaveReasons(t *testing.T) {
	t.Parallel()
	onA := func(change func(r *saga.Reply)) func(l *life) saga.Reply {
		return func(l *life) saga.Reply {
			r := answer(l.command("a", saga.Action), saga.Succeeded)
			change(&r)
			return r
		}
	}
	for name, c := range map[string]struct {
		before func(l *life)
		reply  func(l *life) saga.Reply
		want   string
	}{
		"the step is not in the definition": {
			reply: onA(func(r *saga.Reply) { r.Step = "x" }), want: `the definition has no step "x"`,
		},
		"the step has not begun": {
			reply: onA(func(r *saga.Reply) { r.Step = "v" }), want: "the step is pending",
		},
		"the saga has ended": {
			before: func(l *life) { l.act("a", saga.Failed) },
			reply:  onA(func(*saga.Reply) {}), want: "the saga is compensated",
		},
		"the same success again": {
			before: func(l *life) { l.act("a", saga.Succeeded) },
			reply:  onA(func(*saga.Reply) {}), want: "the step is succeeded",
		},
		"a failure after a success": {
			before: func(l *life) { l.act("a", saga.Succeeded) },
			reply:  onA(func(r *saga.Reply) { r.Outcome = saga.Failed }), want: "the step is succeeded",
		},
		"a compensation's success before there is one": {
			reply: onA(func(r *saga.Reply) { r.Phase = saga.Compensation }), want: "the step is running",
		},
		"no phase at all": {
			reply: onA(func(r *saga.Reply) { r.Phase = "" }), want: "the step is running",
		},
		"another generation": {
			reply: onA(func(r *saga.Reply) { r.Generation = 2 }), want: "generation 1 is awaited",
		},
		"an earlier attempt's trouble": {
			before: func(l *life) { l.act("a", saga.Retry); l.wake() },
			reply:  onA(func(r *saga.Reply) { r.Outcome, r.Attempt = saga.Retry, 1 }), want: "attempt 2 is awaited",
		},
		"a later attempt's trouble": {
			reply: onA(func(r *saga.Reply) { r.Outcome, r.Attempt = saga.InProgress, 2 }), want: "attempt 1 is awaited",
		},
		"the same trouble again": {
			before: func(l *life) { l.act("a", saga.Retry) },
			reply:  onA(func(r *saga.Reply) { r.Outcome = saga.Retry }), want: "the next attempt is already scheduled",
		},
		"an outcome that is none": {
			reply: onA(func(r *saga.Reply) { r.Outcome = "ok" }), want: `unknown outcome "ok"`,
		},
		"an outcome that participants do not give": {
			reply: onA(func(r *saga.Reply) { r.Outcome = saga.OutcomeUnknown }), want: `unknown outcome "unknown"`,
		},
		"trouble at a step that is being undone": {
			before: func(l *life) { l.exhaust("a") },
			reply:  onA(func(r *saga.Reply) { r.Outcome = saga.Retry }), want: "the step is compensating",
		},
		"the first generation's second answer": {
			before: func(l *life) { l.act("a", saga.Succeeded); l.act("v", saga.Succeeded); l.act("r", saga.Failed) },
			reply:  func(l *life) saga.Reply { return answer(l.command("r", saga.Action), saga.Failed) }, want: "generation 2 is awaited",
		},
		"the first generation's late success": {
			before: func(l *life) {
				l.act("a", saga.Succeeded)
				l.act("v", saga.Succeeded)
				l.act("r", saga.Failed)
				l.wake()
			},
			reply: func(l *life) saga.Reply {
				r := answer(l.command("r", saga.Action), saga.Succeeded)
				r.Generation = 1
				return r
			}, want: "generation 2 is awaited",
		},
		"an answer to a generation that was not sent": {
			before: func(l *life) { l.act("a", saga.Succeeded); l.act("v", saga.Succeeded); l.act("r", saga.Failed) },
			reply: func(l *life) saga.Reply {
				r := answer(l.command("r", saga.Action), saga.Failed)
				r.Generation = 2
				return r
			}, want: "the next attempt is already scheduled",
		},
		"trouble at a stuck pivot": {
			before: func(l *life) { l.act("a", saga.Succeeded); l.exhaust("v") },
			reply:  func(l *life) saga.Reply { return answer(l.command("v", saga.Action), saga.Retry) }, want: "the step is stuck",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := begin(t, pivoted, `{}`)
			if c.before != nil {
				c.before(l)
			}
			wantStale(t, l.give(c.reply(l)), c.want)
		})
	}
}

// The result is kept as the database gives it back, so that what is made of it
// is the same before and after.
func TestPayloadsMadeOfAResultAreTheSameForEveryAttempt(t *testing.T) {
	t.Parallel()
	l := begin(t, linear, `{}`)
	r := answer(l.sent[0], saga.Succeeded)
	r.Result = json.RawMessage("{ \"note\" : \"<b>\u2028\" }")
	l.give(r)
	first := l.command("b", saga.Action)
	l.act("b", saga.Retry)
	l.wake()
	if second := l.command("b", saga.Action); string(second.Payload) != string(first.Payload) {
		t.Errorf("payloads\n%s\n%s", first.Payload, second.Payload)
	}
}

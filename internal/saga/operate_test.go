package saga_test

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/skald-saga/skald/internal/saga"
)

// helped is a saga of three steps whose pivot was stuck and resolved.
func helped(t *testing.T, outcome saga.Resolution) *life {
	t.Helper()
	l := begin(t, pivoted, `{}`)
	l.act("a", saga.Succeeded)
	l.exhaust("v")
	l.want("stuck: a=succeeded v=stuck r=pending")
	l.give(saga.Resolve{Step: "v", Phase: saga.Action, Outcome: outcome, Reason: "looked it up", Actor: "ada"})
	return l
}

// wantIllegal checks that a request was refused for that reason. give has
// checked that it changed nothing.
func wantIllegal(t *testing.T, d saga.Decision, code string) {
	t.Helper()
	if d.Illegal != code {
		t.Errorf("illegal because %q (ignored because %q), want %q", d.Illegal, d.Ignored, code)
	}
}

func TestRetryTriesAtOnceWhatWaitsForItsNextAttempt(t *testing.T) {
	t.Parallel()
	l := begin(t, parallel, `{}`)
	wantIllegal(t, l.give(saga.TryNow{}), saga.IllegalNothingToRetry) // both are in flight
	l.act("a", saga.Retry)
	d := l.give(saga.TryNow{Reason: "it is back", Actor: "ada"})
	l.wantSent("do-a#2") // and b, which is in flight, is left alone
	if e := d.History[0]; e.Type != saga.RetryAsked || e.Reason != "it is back" || e.Actor != "ada" {
		t.Errorf("history begins with %+v", e)
	}
	if a, b := l.sent[0], l.latest[0]; a.Generation != b.Generation || !a.EffectTime.Equal(b.EffectTime) || string(a.Payload) != string(b.Payload) {
		t.Errorf("the same effect was sent as\n%+v\n%+v", a, b)
	}
	l.act("a", saga.Retry) // the budget is what it was: that was its second and last
	l.want("compensating: a=unknown b=running c=pending")
}

func TestRetryOfOneStepLeavesTheOthersAlone(t *testing.T) {
	t.Parallel()
	l := begin(t, parallel, `{}`)
	l.act("a", saga.Retry)
	l.act("b", saga.Retry)
	l.give(saga.TryNow{Step: "b"})
	l.wantSent("do-b#2")
	wantIllegal(t, l.give(saga.TryNow{Step: "b"}), saga.IllegalNothingToRetry)
	wantIllegal(t, l.give(saga.TryNow{Step: "nobody"}), saga.IllegalNothingToRetry)
	l.give(saga.TryNow{})
	l.wantSent("do-a#2")
}

// A stuck operation is tried as often again as its policy says.
func TestRetryGivesAStuckOperationItsAttemptsAgain(t *testing.T) {
	t.Parallel()
	for step, l := range map[string]*life{
		"v": begin(t, pivoted, `{}`),
		"a": begin(t, `
name: undo
steps:
  - {name: a, participant: p, action: do-a, compensation: undo-a, compensation_retry: {max_attempts: 2}}
  - {name: b, participant: p, action: do-b, compensation: none}`, `{}`),
	} {
		phase := saga.Action
		l.act("a", saga.Succeeded)
		if step == "a" {
			phase = saga.Compensation
			l.act("b", saga.Failed)
		}
		for round := range 3 {
			for range 2 {
				if n := l.step(step).Attempt; n > 2*round+2 {
					t.Fatalf("attempt %d in round %d", n, round+1)
				}
				l.give(answer(l.command(step, phase), saga.Retry))
				if l.step(step).Waiting {
					l.wake()
				}
			}
			if l.state.Status != saga.Stuck || l.step(step).Attempt != 2*round+2 {
				t.Fatalf("after round %d: %s, attempt %d", round+1, l.picture(), l.step(step).Attempt)
			}
			l.give(saga.TryNow{})
			if c := l.latest[0]; c.Attempt != 2*round+3 || c.Generation != 1 {
				t.Fatalf("the retry is %+v", c)
			}
		}
	}
}

// After a definitive failure the participant would repeat it, so the next
// attempt is another effect; the old one's answers are stale.
func TestRetryAfterADefinitiveFailureIsANewEffect(t *testing.T) {
	t.Parallel()
	l := begin(t, pivoted, `{}`)
	l.act("a", saga.Succeeded)
	l.act("v", saga.Succeeded)
	for range 3 {
		l.act("r", saga.Failed)
		if l.step("r").Waiting {
			l.wake()
		}
	}
	l.want("stuck: a=succeeded v=succeeded r=stuck")
	refused := l.command("r", saga.Action)
	l.give(saga.TryNow{})
	l.wantSent("do-r~4#4")
	wantStale(t, l.give(answer(refused, saga.Succeeded)), "generation 4 is awaited")
	l.act("r", saga.Succeeded)
	l.want("completed: a=succeeded v=succeeded r=succeeded")
}

// Where an expression fails for ever, the operator says what to send. Every
// attempt carries it, and nobody replaces what was sent.
func TestRetryTakesAPayloadForWhatWasNeverSent(t *testing.T) {
	t.Parallel()
	const text = `
name: payload
steps:
  - {name: a, participant: p, action: do-a, compensation: undo-a, payload: '"a" in steps ? steps.nothing : 1'}
  - {name: v, participant: p, action: do-v, kind: pivot, retry: {max_attempts: 2}}
  - {name: r, participant: p, action: do-r, kind: retriable, payload: input.nothing}`
	given := json.RawMessage(`{"given":true}`)
	l := begin(t, text, `{}`)
	l.act("a", saga.Succeeded)
	wantIllegal(t, l.give(saga.TryNow{Payload: given}), saga.IllegalNothingToRetry)
	l.act("v", saga.Retry)
	wantIllegal(t, l.give(saga.TryNow{Step: "v", Payload: given}), saga.IllegalPayload)
	l.act("v", saga.Succeeded)
	l.want("stuck: a=succeeded v=succeeded r=stuck")
	wantIllegal(t, l.give(saga.TryNow{Payload: given}), saga.IllegalPayload)
	l.give(saga.TryNow{Step: "r"}) // what failed fails again
	l.want("stuck: a=succeeded v=succeeded r=stuck")
	l.give(saga.TryNow{Step: "r", Payload: given})
	l.wake()
	l.wake()
	l.wantSent("do-r#2")
	if string(l.latest[0].Payload) != string(given) {
		t.Errorf("the second attempt carries %s", l.latest[0].Payload)
	}

	l = begin(t, text, `{}`)
	done := answer(l.sent[0], saga.Succeeded)
	done.Result = json.RawMessage(`1`)
	l.give(done)
	l.act("v", saga.Failed)
	l.want("stuck: a=stuck v=failed r=pending")
	l.give(saga.TryNow{Step: "a", Payload: given})
	if c := l.latest[0]; c.Operation != "undo-a" || c.ActionGen != 1 || c.ActionOutcome != saga.Succeeded || c.Attempt != 1 || c.Generation != 1 || string(c.Payload) != string(given) {
		t.Errorf("sent %+v", c)
	}
	l.undo("a", saga.Succeeded)
	l.want("compensated: a=compensated v=failed r=pending")
}

func TestResolveSaysHowAStuckStepEnded(t *testing.T) {
	t.Parallel()
	for outcome, want := range map[saga.Resolution]string{
		saga.ResolveSucceeded: "running: a=succeeded v=succeeded r=running",
		saga.ResolveFailed:    "compensating: a=compensating v=failed r=pending",
		saga.ResolveSkipped:   "running: a=succeeded v=skipped r=running",
	} {
		l := helped(t, outcome)
		l.want(want)
		if e := l.history[slices.IndexFunc(l.history, func(e saga.Entry) bool { return e.Type == saga.StepResolved })]; e.Reason != "looked it up" || e.Actor != "ada" || e.Phase != saga.Action {
			t.Errorf("history has %+v", e)
		}
		again := saga.Resolve{Step: "v", Phase: saga.Action, Outcome: outcome}
		wantStale(t, l.give(again), "it has been resolved so already")
		other := map[saga.Resolution]saga.Resolution{saga.ResolveSucceeded: saga.ResolveFailed, saga.ResolveFailed: saga.ResolveSkipped, saga.ResolveSkipped: saga.ResolveSucceeded}
		again.Outcome = other[outcome]
		wantIllegal(t, l.give(again), saga.IllegalNotStuck)
	}
}

func TestTheResultThatAnOperatorSuppliesIsUsed(t *testing.T) {
	t.Parallel()
	l := begin(t, pivoted, `{}`)
	l.act("a", saga.Succeeded)
	l.exhaust("v")
	l.give(saga.Resolve{Step: "v", Phase: saga.Action, Outcome: saga.ResolveSucceeded, Result: json.RawMessage(`{ "id": 7 }`)})
	if got := string(l.latest[0].Payload); got != `{"input":{},"steps":{"v":{"id":7}}}` {
		t.Errorf("the next step is sent %s", got)
	}
}

func TestOnlyTheStuckOperationCanBeResolved(t *testing.T) {
	t.Parallel()
	l := begin(t, pivoted, `{}`)
	resolve := func(step string, phase saga.Phase, outcome saga.Resolution) saga.Decision {
		return l.give(saga.Resolve{Step: step, Phase: phase, Outcome: outcome})
	}
	wantIllegal(t, resolve("a", saga.Action, saga.ResolveSucceeded), saga.IllegalNotStuck)
	l.act("a", saga.Succeeded)
	l.act("v", saga.Succeeded)
	l.exhaust("r")
	wantIllegal(t, resolve("a", saga.Action, saga.ResolveSucceeded), saga.IllegalNotStuck)
	wantIllegal(t, resolve("nobody", saga.Action, saga.ResolveSucceeded), saga.IllegalNotStuck)
	wantIllegal(t, resolve("r", saga.Compensation, saga.ResolveSucceeded), saga.IllegalNotStuck)
	wantIllegal(t, resolve("r", saga.Action, saga.ResolveFailed), saga.IllegalOutcome) // it cannot be undone any more
	wantIllegal(t, resolve("r", saga.Action, "nonsense"), saga.IllegalOutcome)
	resolve("r", saga.Action, saga.ResolveSkipped)
	l.want("completed: a=succeeded v=succeeded r=skipped")
	wantIllegal(t, resolve("r", saga.Action, saga.ResolveSucceeded), saga.IllegalEnded)
}

// What an operator lets be is not undone, and the saga does not say it was.
func TestASkippedCompensationEndsTheSagaAsAbandoned(t *testing.T) {
	t.Parallel()
	for outcome, want := range map[saga.Resolution]string{
		saga.ResolveSucceeded: "compensated: a=compensated b=compensated c=failed",
		saga.ResolveSkipped:   "abandoned: a=compensated b=skipped c=failed",
	} {
		l := begin(t, linear, `{}`)
		l.act("a", saga.Succeeded)
		l.act("b", saga.Succeeded)
		l.act("c", saga.Failed)
		l.undo("b", saga.Retry)
		l.wake()
		l.undo("b", saga.Retry)
		l.want("stuck: a=succeeded b=stuck c=failed")
		wantIllegal(t, l.give(saga.Resolve{Step: "b", Phase: saga.Compensation, Outcome: saga.ResolveFailed}), saga.IllegalOutcome)
		l.give(saga.Resolve{Step: "b", Phase: saga.Compensation, Outcome: outcome, Reason: "by hand", Actor: "ada"})
		l.wantSent("undo-a#1")
		l.undo("a", saga.Succeeded)
		l.want(want)
		if end := l.history[len(l.history)-1]; outcome == saga.ResolveSkipped && end.Reason != "not undone: b" {
			t.Errorf("the end is %+v", end)
		}
	}
}

// Two statements that cannot both be true need a person, even after the end.
func TestAReplyThatContradictsAnOperatorMakesTheSagaStuck(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		resolved saga.Resolution
		finish   func(l *life)
		says     saga.Outcome
		stuck    string
		possible []saga.Resolution
		allowed  []string
		settle   saga.Resolution
		ends     string
	}{
		"it did not happen, before anything followed": {
			resolved: saga.ResolveSucceeded, finish: func(*life) {}, says: saga.Failed,
			stuck: "stuck: a=succeeded v=stuck r=running", possible: []saga.Resolution{saga.ResolveSucceeded, saga.ResolveSkipped},
			allowed: []string{"resolve", "pause", "abandon"}, settle: saga.ResolveSkipped, ends: "running: a=succeeded v=skipped r=running",
		},
		"it did not happen, and the saga is completed": {
			resolved: saga.ResolveSucceeded, finish: func(l *life) { l.act("r", saga.Succeeded) }, says: saga.Failed,
			stuck: "stuck: a=succeeded v=stuck r=succeeded", possible: []saga.Resolution{saga.ResolveSucceeded, saga.ResolveSkipped},
			allowed: []string{"resolve", "pause", "abandon"}, settle: saga.ResolveSucceeded, ends: "completed: a=succeeded v=succeeded r=succeeded",
		},
		"it did happen, and the saga is being undone": {
			resolved: saga.ResolveFailed, finish: func(*life) {}, says: saga.Succeeded,
			stuck: "stuck: a=compensating v=stuck r=pending", possible: []saga.Resolution{saga.ResolveFailed, saga.ResolveSkipped},
			allowed: []string{"resolve", "pause", "abandon"}, settle: saga.ResolveFailed, ends: "compensating: a=compensating v=failed r=pending",
		},
		"it did happen, and the saga is undone": {
			resolved: saga.ResolveFailed, finish: func(l *life) { l.undo("a", saga.Succeeded) }, says: saga.Succeeded,
			stuck: "stuck: a=compensated v=stuck r=pending", possible: []saga.Resolution{saga.ResolveFailed, saga.ResolveSkipped},
			allowed: []string{"resolve", "pause", "abandon"}, settle: saga.ResolveSkipped, ends: "abandoned: a=compensated v=skipped r=pending",
		},
		"it did happen, and the saga was abandoned": {
			resolved: saga.ResolveFailed, finish: func(l *life) { l.give(saga.Abandon{Actor: "ada"}) }, says: saga.Succeeded,
			stuck: "stuck: a=stuck v=stuck r=pending", possible: []saga.Resolution{saga.ResolveFailed, saga.ResolveSkipped},
			allowed: []string{"retry", "resolve", "pause", "abandon"}, settle: saga.ResolveFailed, ends: "stuck: a=stuck v=failed r=pending",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := helped(t, c.resolved)
			c.finish(l)
			late := answer(l.command("v", saga.Action), c.says)
			l.give(late)
			l.want(c.stuck)
			if f := l.step("v").Error; f == nil || f.Code != "contradicted" {
				t.Errorf("the step's error is %+v", f)
			}
			if diff := cmp.Diff(c.possible, saga.Resolutions(l.def, l.state, 1)); diff != "" {
				t.Errorf("resolutions: -want +got\n%s", diff)
			}
			if diff := cmp.Diff(c.allowed, saga.Allowed(l.def, l.state)); diff != "" {
				t.Errorf("allowed: -want +got\n%s", diff)
			}
			wantStale(t, l.give(late), "the step is stuck")
			l.give(saga.Resolve{Step: "v", Phase: saga.Action, Outcome: c.settle})
			l.want(c.ends)
			// The operator has known both statements: neither counts any more.
			for _, outcome := range []saga.Outcome{saga.Succeeded, saga.Failed} {
				if d := l.give(answer(l.command("v", saga.Action), outcome)); d.Ignored == "" {
					t.Errorf("%s counts after the dispute was settled: %v", outcome, types(d))
				}
			}
		})
	}
}

// Once it is in doubt whether the pivot has happened, nothing more is begun
// behind it, however far.
func TestNothingBeginsBehindAStepInDispute(t *testing.T) {
	t.Parallel()
	l := begin(t, strings.TrimSpace(pivoted)+"\n  - {name: s, participant: p, action: do-s, kind: retriable}\n", `{}`)
	l.act("a", saga.Succeeded)
	l.exhaust("v")
	l.give(saga.Resolve{Step: "v", Phase: saga.Action, Outcome: saga.ResolveSucceeded})
	l.act("v", saga.Failed)
	l.act("r", saga.Succeeded)
	l.want("stuck: a=succeeded v=stuck r=succeeded s=pending")
	l.wantSent()
	l.give(saga.Resolve{Step: "v", Phase: saga.Action, Outcome: saga.ResolveSucceeded})
	l.wantSent("do-s#1")
}

// What agrees with the operator, or speaks of another effect, is only late.
func TestAReplyThatAgreesWithAnOperatorIsStale(t *testing.T) {
	t.Parallel()
	for resolved, says := range map[saga.Resolution][]saga.Outcome{
		saga.ResolveSucceeded: {saga.Succeeded, saga.Retry, saga.InProgress},
		saga.ResolveFailed:    {saga.Failed, saga.Retry, saga.InProgress},
		saga.ResolveSkipped:   {saga.Succeeded, saga.Failed, saga.Retry, saga.InProgress}, // which says nothing of the effect
	} {
		for _, outcome := range says {
			l := helped(t, resolved)
			if d := l.act("v", outcome); d.Ignored == "" {
				t.Errorf("resolved as %s, then %s: %v", resolved, outcome, types(d))
			}
		}
	}
}

// The next attempt of a step behind the pivot that was said to have happened,
// and had failed, is a new effect.
func TestADisputedRetriableStepCanBeTriedAgain(t *testing.T) {
	t.Parallel()
	l := begin(t, pivoted, `{}`)
	l.act("a", saga.Succeeded)
	l.act("v", saga.Succeeded)
	l.exhaust("r")
	l.give(saga.Resolve{Step: "r", Phase: saga.Action, Outcome: saga.ResolveSucceeded})
	l.want("completed: a=succeeded v=succeeded r=succeeded")
	l.act("r", saga.Failed)
	l.want("stuck: a=succeeded v=succeeded r=stuck")
	l.give(saga.TryNow{})
	l.wantSent("do-r~2#4")
	if c := l.command("r", saga.Action); !c.EffectTime.Equal(l.now) || c.EffectTime.Equal(l.sent[2].EffectTime) {
		t.Errorf("the new effect is as of %s, now is %s", c.EffectTime, l.now)
	}
	l.act("r", saga.Succeeded)
	l.want("completed: a=succeeded v=succeeded r=succeeded")
}

func TestAbandonEndsTheSagaAsItStands(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		at    func(l *life)
		after string
	}{
		"a step is in flight":         {func(*life) {}, "abandoned: a=unknown v=pending r=pending"},
		"a step waits":                {func(l *life) { l.act("a", saga.Retry) }, "abandoned: a=unknown v=pending r=pending"},
		"the pivot is in flight":      {func(l *life) { l.act("a", saga.Succeeded) }, "abandoned: a=succeeded v=stuck r=pending"},
		"a step behind it is stuck":   {func(l *life) { l.act("a", saga.Succeeded); l.act("v", saga.Succeeded); l.exhaust("r") }, "abandoned: a=succeeded v=succeeded r=stuck"},
		"a compensation is in flight": {func(l *life) { l.act("a", saga.Succeeded); l.act("v", saga.Failed) }, "abandoned: a=stuck v=failed r=pending"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := begin(t, pivoted, `{}`)
			c.at(l)
			d := l.give(saga.Abandon{Reason: "lost cause", Actor: "ada"})
			l.want(c.after)
			l.wantSent()
			if e := d.History[len(d.History)-1]; e.Type != saga.EndedAbandoned || e.Reason != "lost cause" || e.Actor != "ada" {
				t.Errorf("the end is %+v", e)
			}
			for _, sent := range l.sent { // replies change nothing any more
				for _, outcome := range []saga.Outcome{saga.Succeeded, saga.Failed, saga.Retry} {
					wantStale(t, l.give(answer(sent, outcome)), "the saga is abandoned")
				}
			}
			wantStale(t, l.give(saga.Abandon{}), "the saga is abandoned already")
			for _, ev := range []saga.Event{saga.Cancel{}, saga.TryNow{}, saga.Resolve{Step: "r", Phase: saga.Action, Outcome: saga.ResolveSkipped}} {
				wantIllegal(t, l.give(ev), saga.IllegalEnded)
			}
		})
	}
	l := begin(t, pivoted, `{}`)
	l.act("a", saga.Failed)
	wantIllegal(t, l.give(saga.Abandon{}), saga.IllegalEnded)
}

// A restart is another saga: it knows whose work it takes up, and nothing else
// of it.
func TestARestartIsAnotherSaga(t *testing.T) {
	t.Parallel()
	def := parse(t, pivoted)
	const old = "019ab8b1-6a10-7c44-8a53-000000000000"
	d, err := saga.StartWith(def, id, json.RawMessage(`{}`), saga.Opening{Again: saga.Origin{Saga: old, Reason: "once more", Actor: "ada"}}, t0)
	if err != nil {
		t.Fatal(err)
	}
	l := &life{t: t, def: def, now: t0}
	l.take(d)
	if e := l.history[0]; l.state.RestartOf != old || e.RestartOf != old || e.Reason != "once more" || e.Actor != "ada" {
		t.Errorf("it is a restart of %q; history begins with %+v", l.state.RestartOf, e)
	}
	l.wantSent("do-a#1")
}

func TestListenersOfEndsHearThatASagaWasAbandoned(t *testing.T) {
	t.Parallel()
	if !saga.EventsTerminal.Has(saga.EndedAbandoned) {
		t.Error("the end of an abandoned saga is not told")
	}
}

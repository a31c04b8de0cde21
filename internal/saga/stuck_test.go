package saga_test

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/skald-saga/skald/internal/saga"
)

// on_stuck says whether the compensations behind one that is stuck wait for
// it. Either way the saga is stuck until somebody deals with that one.
func TestCompensationsBehindAStuckOneWaitOrContinue(t *testing.T) {
	t.Parallel()
	for onStuck, c := range map[string]struct{ stuck, after string }{
		"wait":     {"stuck: a=succeeded b=stuck c=failed", "compensating: a=compensating b=compensated c=failed"},
		"continue": {"stuck: a=compensating b=stuck c=failed", "compensating: a=compensating b=compensated c=failed"},
	} {
		for name, stick := range map[string]func(l *life){
			"used up": func(l *life) {
				l.undo("b", saga.Retry)
				l.wake()
				l.undo("b", saga.Retry)
			},
			"never sent": func(*life) {},
		} {
			t.Run(onStuck+", "+name, func(t *testing.T) {
				t.Parallel()
				text := strings.Replace(linear, "name: linear", "name: linear\non_stuck: "+onStuck, 1)
				if name == "never sent" {
					text = strings.Replace(text, "compensation: undo-b,", `compensation: undo-b, payload: '"b" in steps ? steps.nothing : 1',`, 1)
				}
				l := begin(t, text, `{}`)
				l.act("a", saga.Succeeded)
				done := answer(l.command("b", saga.Action), saga.Succeeded)
				done.Result = json.RawMessage(`1`)
				l.give(done)
				l.act("c", saga.Failed)
				stick(l)
				l.want(c.stuck)
				l.give(saga.Resolve{Step: "b", Phase: saga.Compensation, Outcome: saga.ResolveSucceeded})
				l.want(c.after)
				l.undo("a", saga.Succeeded)
				l.want("compensated: a=compensated b=compensated c=failed")
			})
		}
	}
}

// Nothing that went wrong hides behind what went wrong later.
func TestAllErrorsOfAStuckSagaAreReported(t *testing.T) {
	t.Parallel()
	l := begin(t, strings.Replace(parallel, "name: parallel", "name: parallel\non_stuck: continue", 1), `{}`)
	failure := func(step string, phase saga.Phase, outcome saga.Outcome, code string) {
		r := answer(l.command(step, phase), outcome)
		r.Failure = &saga.Failure{Code: code, Message: "because"}
		l.give(r)
	}
	l.act("b", saga.Retry)
	l.give(saga.TryNow{})
	failure("b", saga.Action, saga.Retry, "slow") // b is given up
	failure("a", saga.Action, saga.Retry, "gone") // and so is a, without another attempt
	failure("a", saga.Compensation, saga.Failed, "closed")
	failure("b", saga.Compensation, saga.Retry, "full")
	l.want("stuck: a=stuck b=stuck c=pending")
	because := func(code, step string) saga.Failure { return saga.Failure{Code: code, Message: "because", Step: step} }
	want := []saga.Trouble{
		{Failure: because("gone", "a"), Phase: saga.Action}, {Failure: because("closed", "a"), Phase: saga.Compensation},
		{Failure: because("slow", "b"), Phase: saga.Action}, {Failure: because("full", "b"), Phase: saga.Compensation},
	}
	if diff := cmp.Diff(want, l.state.Troubles(l.def)); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
	if f := l.state.Failure(); f == nil || *f != because("slow", "b") {
		t.Errorf("the cause is %+v", f)
	}
}

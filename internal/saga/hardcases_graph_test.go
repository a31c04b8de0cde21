package saga_test

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/skald-saga/skald/internal/saga"
)

// (7) A skipped pivot counts as passed.
func TestHardCase7ASkippedPivotIsPassed(t *testing.T) {
	t.Parallel()
	l := begin(t, `
name: skipping
deadline: 10m
steps:
  - {name: a, participant: p, action: do-a, compensation: undo-a}
  - {name: v, participant: p, action: do-v, kind: pivot, when: 'false'}
  - {name: r, participant: p, action: do-r, kind: retriable, retry: {max_attempts: 1}}`, `{}`)
	l.act("a", saga.Succeeded)
	l.want("running: a=succeeded v=skipped r=running")
	if d := l.give(saga.Cancel{}); d.Illegal != saga.IllegalPastPivot {
		t.Errorf("cancel: %+v", d)
	}
	keepAtWork(l, "r", 10*time.Minute)
	l.wake()
	if !l.state.Overdue {
		t.Error("the deadline was not taken as one past the pivot")
	}
	l.act("r", saga.Failed)
	l.want("stuck: a=succeeded v=skipped r=stuck")
}

// (7) An expression that cannot be evaluated fails the step where that is
// allowed; past the pivot, and in a compensation, only a person can help.
func TestHardCase7ExpressionErrors(t *testing.T) {
	t.Parallel()
	const missing = "input.nothing == 1"
	text := func(where string) string {
		expr := func(name string) string {
			if name == where {
				return missing
			}
			return "true"
		}
		return `
name: expressions
steps:
  - {name: a, participant: p, action: do-a, compensation: undo-a}
  - {name: b, participant: p, action: do-b, compensation: undo-b, when: '` + expr("when b") + `', payload: '` + expr("payload b") + `'}
  - {name: v, participant: p, action: do-v, kind: pivot, when: '` + expr("when v") + `', payload: '` + expr("payload v") + `'}
  - {name: r, participant: p, action: do-r, kind: retriable, when: '` + expr("when r") + `', payload: '` + expr("payload r") + `'}`
	}
	for where, after := range map[string]string{
		"when b":    "compensating: a=compensating b=failed v=pending r=pending",
		"payload b": "compensating: a=compensating b=failed v=pending r=pending",
		"when v":    "compensating: a=succeeded b=compensating v=failed r=pending",
		"payload v": "compensating: a=succeeded b=compensating v=failed r=pending",
		"when r":    "stuck: a=succeeded b=succeeded v=succeeded r=stuck",
		"payload r": "stuck: a=succeeded b=succeeded v=succeeded r=stuck",
	} {
		l := begin(t, text(where), `{}`)
		for _, step := range []string{"a", "b", "v"} {
			if l.step(step).Status == saga.StepRunning {
				l.act(step, saga.Succeeded)
			}
		}
		if got := l.picture(); got != after {
			t.Errorf("%s: the saga is %s, want %s", where, got, after)
		}
		st := l.step(where[len(where)-1:])
		if st.Error == nil || st.Error.Code != "expression" {
			t.Errorf("%s: the step says %+v", where, st.Error)
		}
	}
}

// (7) The payload of a compensation may see more than that of its action, and
// fail where that did not.
func TestHardCase7AnExpressionErrorInACompensationIsStuck(t *testing.T) {
	t.Parallel()
	l := begin(t, `
name: compensation
steps:
  - {name: a, participant: p, action: do-a, compensation: undo-a, payload: '"a" in steps ? steps.a.id : 0'}
  - {name: b, participant: p, action: do-b, compensation: undo-b}`, `{}`)
	r := answer(l.sent[0], saga.Succeeded)
	r.Result = []byte(`{}`) // has no id
	l.give(r)
	d := l.act("b", saga.Failed)
	l.want("stuck: a=stuck b=failed")
	if st := l.step("a"); st.Phase != saga.Compensation || st.Error.Code != "expression" {
		t.Errorf("the step says %+v", st)
	}
	want := []saga.EntryType{saga.StepFailure, saga.TurnedBack, saga.StepNeedsHelp, saga.BecameStuck}
	if diff := cmp.Diff(want, types(d)); diff != "" {
		t.Errorf("history: -want +got\n%s", diff)
	}
}

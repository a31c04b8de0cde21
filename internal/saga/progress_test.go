package saga_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/skald-saga/skald/internal/saga"
)

const conditional = `
name: conditional
steps:
  - {name: a, participant: p, action: do-a, compensation: undo-a, when: input.a}
  - {name: b, participant: p, action: do-b, compensation: undo-b, when: input.b}
  - {name: c, participant: p, action: do-c, compensation: undo-c}`

func TestASkippedStepIsSkippedForwardsAndBackwards(t *testing.T) {
	t.Parallel()
	l := begin(t, conditional, `{"a":true,"b":false}`)
	l.act("a", saga.Succeeded)
	l.want("running: a=succeeded b=skipped c=running")
	l.wantSent("do-c#1")
	l.act("c", saga.Failed)
	l.wantSent("undo-a#1")
	l.undo("a", saga.Succeeded)
	l.want("compensated: a=compensated b=skipped c=failed")

	l = begin(t, conditional, `{"a":false,"b":false}`) // several in a row, from the start
	l.want("running: a=skipped b=skipped c=running")
	l.act("c", saga.Succeeded)
	l.want("completed: a=skipped b=skipped c=succeeded")
}

func TestASagaWithNothingToDoCompletesAtOnce(t *testing.T) {
	t.Parallel()
	l := begin(t, `
name: nothing
deadline: 1m
steps: [{name: a, participant: p, action: do-a, compensation: undo-a, when: 'false'}]`, `{}`)
	l.want("completed: a=skipped")
	l.wantSent()
}

func TestASagaWhoseFirstStepCannotBeMadeIsCompensatedAtOnce(t *testing.T) {
	t.Parallel()
	l := begin(t, conditional, `{}`)
	l.want("compensated: a=failed b=pending c=pending")
	if l.state.Cause == nil || l.state.Cause.Code != "expression" || l.state.Cause.Step != "a" {
		t.Errorf("cause %+v", l.state.Cause)
	}
}

const diamond = `
name: diamond
steps:
  - {name: a, participant: p, action: do-a, compensation: undo-a}
  - {name: l, participant: p, action: do-l, compensation: undo-l, after: [a], compensation_retry: {max_attempts: 1}}
  - {name: m, participant: p, action: do-m, compensation: none, after: [l]}
  - {name: r, participant: p, action: do-r, compensation: undo-r, after: [a]}
  - {name: z, participant: p, action: do-z, compensation: undo-z, after: [m, r]}`

// P3: reverse dependency order, independent steps together. What has nothing
// to undo does not break the order of its neighbours.
func TestCompensationsRunInReverseDependencyOrder(t *testing.T) {
	t.Parallel()
	l := begin(t, diamond, `{}`)
	for _, step := range []string{"a", "l", "m", "r"} {
		l.act(step, saga.Succeeded)
	}
	l.exhaust("z")
	l.want("compensating: a=succeeded l=succeeded m=succeeded r=succeeded z=compensating")
	l.undo("z", saga.Succeeded)
	l.wantSent("undo-r#1", "undo-l#1")
	l.undo("l", saga.Succeeded)
	l.wantSent()
	l.undo("r", saga.Succeeded)
	l.wantSent("undo-a#1")
	l.undo("a", saga.Succeeded)
	l.want("compensated: a=compensated l=compensated m=succeeded r=compensated z=compensated")
}

func TestAStuckCompensationHoldsUpOnlyWhatIsBehindIt(t *testing.T) {
	t.Parallel()
	l := begin(t, diamond, `{}`)
	for _, step := range []string{"a", "l", "m", "r"} {
		l.act(step, saga.Succeeded)
	}
	l.act("z", saga.Failed)
	l.wantSent("undo-r#1", "undo-l#1")
	d := l.undo("l", saga.Retry)
	l.want("stuck: a=succeeded l=stuck m=succeeded r=compensating z=failed")
	if diff := cmp.Diff([]saga.EntryType{saga.StepNeedsHelp, saga.BecameStuck}, types(d)); diff != "" {
		t.Errorf("history: -want +got\n%s", diff)
	}
	l.undo("r", saga.Succeeded) // goes on
	l.want("stuck: a=succeeded l=stuck m=succeeded r=compensated z=failed")
	l.wantSent() // but a is behind l
	d = l.undo("l", saga.Succeeded)
	l.wantSent("undo-a#1")
	if diff := cmp.Diff([]saga.EntryType{saga.StepUndone, saga.CommandIssued, saga.NoLongerStuck}, types(d)); diff != "" {
		t.Errorf("history: -want +got\n%s", diff)
	}
	l.want("compensating: a=compensating l=compensated m=succeeded r=compensated z=failed")
}

func TestBranchesBesideAStuckStepGoOn(t *testing.T) {
	t.Parallel()
	l := begin(t, `
name: branches
steps:
  - {name: v, participant: p, action: do-v, kind: pivot}
  - {name: r, participant: p, action: do-r, kind: retriable, after: [v], retry: {max_attempts: 1}}
  - {name: s, participant: p, action: do-s, kind: retriable, after: [v]}
  - {name: t, participant: p, action: do-t, kind: retriable, after: [s]}`, `{}`)
	l.act("v", saga.Succeeded)
	l.act("r", saga.Retry)
	l.want("stuck: v=succeeded r=stuck s=running t=pending")
	l.act("s", saga.Succeeded)
	l.act("t", saga.Succeeded)
	l.want("stuck: v=succeeded r=stuck s=succeeded t=succeeded")
	d := l.act("r", saga.Succeeded)
	l.want("completed: v=succeeded r=succeeded s=succeeded t=succeeded")
	if diff := cmp.Diff([]saga.EntryType{saga.StepSuccess, saga.NoLongerStuck, saga.EndedCompleted}, types(d)); diff != "" {
		t.Errorf("history: -want +got\n%s", diff)
	}
}

func TestACompensationNamesTheActionThatItUndoes(t *testing.T) {
	t.Parallel()
	l := begin(t, linear, `{"x":1}`)
	r := answer(l.sent[0], saga.Succeeded)
	r.Result = []byte(`{"id":7}`)
	l.give(r)
	l.now = l.now.Add(1)
	l.act("b", saga.Failed)
	c := l.command("a", saga.Compensation)
	want := saga.Command{
		Step: "a", Participant: "p", Operation: "undo-a", Phase: saga.Compensation, Generation: 1, Attempt: 1, EffectTime: l.now,
		ActionOutcome: saga.Succeeded, ActionGen: 1, Payload: []byte(`{"input":{"x":1},"steps":{"a":{"id":7}}}`),
	}
	if diff := cmp.Diff(want, c); diff != "" {
		t.Errorf("compensation: -want +got\n%s", diff)
	}
}

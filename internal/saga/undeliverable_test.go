package saga_test

import (
	"testing"

	"github.com/skald-saga/skald/internal/saga"
)

func undeliverable(c saga.Command) saga.Undeliverable {
	return saga.Undeliverable{Step: c.Step, Phase: c.Phase, Generation: c.Generation, Attempt: c.Attempt, Reason: "too large"}
}

const deliveries = `
name: deliver
steps:
  - {name: a, participant: p, action: do-a, compensation: undo-a, retry: {max_attempts: 3}, compensation_retry: {max_attempts: 5}}
  - {name: b, participant: p, action: do-b, compensation: undo-b, retry: {max_attempts: 3}}
  - {name: v, participant: p, action: do-v, kind: pivot, retry: {max_attempts: 3}}
  - {name: r, participant: p, action: do-r, kind: retriable}`

// DESIGN 2.1 (12): a command that nobody can have seen has done nothing; one
// that came after another leaves open what that one has done; and where the
// saga can neither go on nor be undone without it, a person decides.
func TestACommandThatCannotBePublishedEndsItsOperation(t *testing.T) {
	t.Parallel()
	again := func(l *life, step string) { l.act(step, saga.Retry); l.wake() }
	for name, c := range map[string]struct {
		before func(l *life)
		step   string
		phase  saga.Phase
		want   string
		sent   []string
	}{
		"the first attempt of an action: it has failed": {
			func(l *life) { l.act("a", saga.Succeeded) }, "b", saga.Action,
			"compensating: a=compensating b=failed v=pending r=pending", []string{"undo-a#1"},
		},
		"a later attempt: nobody knows": {
			func(l *life) { l.act("a", saga.Succeeded); again(l, "b") }, "b", saga.Action,
			"compensating: a=succeeded b=compensating v=pending r=pending", []string{"undo-b#1"},
		},
		"the first attempt of the pivot: it has failed": {
			func(l *life) { l.act("a", saga.Succeeded); l.act("b", saga.Succeeded) }, "v", saga.Action,
			"compensating: a=succeeded b=compensating v=failed r=pending", []string{"undo-b#1"},
		},
		"a later attempt of the pivot: a person decides": {
			func(l *life) { l.act("a", saga.Succeeded); l.act("b", saga.Succeeded); again(l, "v") }, "v", saga.Action,
			"stuck: a=succeeded b=succeeded v=stuck r=pending", nil,
		},
		"a step behind the pivot: a person decides": {
			func(l *life) { l.act("a", saga.Succeeded); l.act("b", saga.Succeeded); l.act("v", saga.Succeeded) }, "r", saga.Action,
			"stuck: a=succeeded b=succeeded v=succeeded r=stuck", nil,
		},
		"a compensation: a person decides": {
			func(l *life) { l.act("a", saga.Succeeded); l.act("b", saga.Failed) }, "a", saga.Compensation,
			"stuck: a=stuck b=failed v=pending r=pending", nil,
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := begin(t, deliveries, `{}`)
			c.before(l)
			l.give(undeliverable(l.command(c.step, c.phase)))
			l.want(c.want)
			if len(c.sent) > 0 {
				l.wantSent(c.sent...)
			}
			if f := l.step(c.step).Error; f == nil || f.Code != "undeliverable" || f.Message != "too large" {
				if notes := l.step(c.step).Notes; notes == nil || notes.ActionError == nil || notes.ActionError.Code != "undeliverable" {
					t.Errorf("the step's error is %+v", f)
				}
			}
		})
	}
}

// P6: only the attempt that is awaited counts.
func TestWordOfACommandThatIsNotAwaitedChangesNothing(t *testing.T) {
	t.Parallel()
	l := begin(t, deliveries, `{}`)
	first := l.command("a", saga.Action)
	l.act("a", saga.Retry)
	wantStale(t, l.give(undeliverable(first)), "another attempt is awaited")
	l.wake()
	wantStale(t, l.give(undeliverable(first)), "another attempt is awaited")
	l.act("a", saga.Succeeded)
	wantStale(t, l.give(undeliverable(l.command("a", saga.Action))), "the step is succeeded")
	other := undeliverable(l.command("b", saga.Action))
	other.Generation = 2
	wantStale(t, l.give(other), "generation 1 is awaited")
	other.Step = "z"
	wantStale(t, l.give(other), `the definition has no step "z"`)
	l.give(saga.Abandon{Actor: "ada"})
	wantStale(t, l.give(undeliverable(l.command("b", saga.Action))), "the saga is abandoned")
}

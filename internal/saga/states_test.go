package saga_test

import (
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/skald-saga/skald/internal/saga"
)

var update = flag.Bool("update", false, "write docs/states.md as the state machine has it")

const statesPage = "../../docs/states.md"

// situation is a state of a saga, and the step that replies are about.
type situation struct {
	name  string
	text  string
	step  string
	phase saga.Phase
	reach func(l *life)
}

func atPivot(l *life)     { l.act("a", saga.Succeeded) }
func behindPivot(l *life) { l.act("a", saga.Succeeded); l.act("v", saga.Succeeded) }
func undoing(l *life)     { l.act("a", saga.Succeeded); l.act("v", saga.Failed) }
func resolved(outcome saga.Resolution) func(l *life) {
	return func(l *life) {
		atPivot(l)
		l.exhaust("v")
		l.give(saga.Resolve{Step: "v", Phase: saga.Action, Outcome: outcome, Actor: "ada"})
	}
}

// then is one thing after the other.
func then(steps ...func(l *life)) func(l *life) {
	return func(l *life) {
		for _, s := range steps {
			s(l)
		}
	}
}

func says(step string, phase saga.Phase, outcome saga.Outcome) func(l *life) {
	return func(l *life) { l.give(answer(l.command(step, phase), outcome)) }
}

// opens begins the saga otherwise.
func opens(o saga.Opening) func(l *life) { return opensWith(`{}`, o) }

func opensWith(input string, o saga.Opening) func(l *life) {
	return func(l *life) { *l = *beginWith(l.t, l.def, input, o) }
}

func asks(ev saga.Event) func(l *life) { return func(l *life) { l.give(ev) } }

func situations() []situation {
	const single = `
name: example
deadline: 10m
steps:
  - {name: a, participant: p, action: do-a, compensation: undo-a, retry: {max_attempts: 2}, compensation_retry: {max_attempts: 1}}
  - {name: v, participant: p, action: do-v, kind: pivot, retry: {max_attempts: 2}}
  - {name: r, participant: p, action: do-r, kind: retriable, retry: {max_attempts: 2}}
`
	exhausted := func(step string) func(l *life) { return func(l *life) { l.exhaust(step) } }
	return []situation{
		{"The saga waits for its start time", single, "", "", opens(saga.Opening{StartAt: t0.Add(time.Hour)})},
		{"… it is paused", single, "", "", then(opens(saga.Opening{StartAt: t0.Add(time.Hour)}), asks(saga.Pause{}))},
		{"The saga waits for its lock", strings.Replace(single, "deadline", "lock: input.k\ndeadline", 1), "", "", opensWith(`{"k": "k"}`, saga.Opening{})},
		{"A step before the pivot is in flight", single, "a", saga.Action, func(*life) {}},
		{"… it waits for its next attempt", single, "a", saga.Action, says("a", saga.Action, saga.Retry)},
		{"… the saga is paused", single, "a", saga.Action, asks(saga.Pause{})},
		{"The pivot is in flight", single, "v", saga.Action, atPivot},
		{"… a cancel has been requested", single, "v", saga.Action, then(atPivot, asks(saga.Cancel{}))},
		{"… it waits for its next attempt", single, "v", saga.Action, then(atPivot, says("v", saga.Action, saga.Retry))},
		{"… it is stuck", single, "v", saga.Action, then(atPivot, exhausted("v"))},
		{"… it was resolved as succeeded", single, "v", saga.Action, resolved(saga.ResolveSucceeded)},
		{"… it was resolved as failed", single, "v", saga.Action, resolved(saga.ResolveFailed)},
		{"… it was resolved as skipped", single, "v", saga.Action, resolved(saga.ResolveSkipped)},
		{"… a reply contradicts that it succeeded", single, "v", saga.Action, then(resolved(saga.ResolveSucceeded), says("v", saga.Action, saga.Failed))},
		{"… a reply contradicts that it failed", single, "v", saga.Action, then(resolved(saga.ResolveFailed), says("v", saga.Action, saga.Succeeded))},
		{"A step behind the pivot is in flight", single, "r", saga.Action, behindPivot},
		{"… it waits for its next attempt", single, "r", saga.Action, then(behindPivot, says("r", saga.Action, saga.Retry))},
		{"… it is stuck", single, "r", saga.Action, then(behindPivot, exhausted("r"))},
		{"A compensation is in flight", single, "a", saga.Compensation, undoing},
		{"… its action's late reply", single, "a", saga.Action, undoing},
		{"… it is stuck", single, "a", saga.Compensation, then(undoing, says("a", saga.Compensation, saga.Retry))},
		{"… it is stuck and the saga is paused", single, "a", saga.Compensation, then(undoing, says("a", saga.Compensation, saga.Retry), asks(saga.Pause{}))},
		{"Two steps are in flight, and one fails: the other is settled", parallel, "b", saga.Action, says("a", saga.Action, saga.Failed)},
		{"… the one that was given up", parallel, "a", saga.Action, then(says("a", saga.Action, saga.Retry), asks(saga.Cancel{}))},
		{"The saga is completed", single, "r", saga.Action, then(behindPivot, says("r", saga.Action, saga.Succeeded))},
		{"… its pivot was resolved as succeeded", single, "v", saga.Action, then(resolved(saga.ResolveSucceeded), says("r", saga.Action, saga.Succeeded))},
		{"The saga is compensated", single, "a", saga.Compensation, then(undoing, says("a", saga.Compensation, saga.Succeeded))},
		{"The saga is abandoned", single, "a", saga.Action, asks(saga.Abandon{Actor: "ada"})},
	}
}

// happens lists what may happen in a situation. The current attempt is meant.
func (s situation) happens(l *life) []struct {
	name string
	ev   saga.Event
	at   time.Time
} {
	type row = struct {
		name string
		ev   saga.Event
		at   time.Time
	}
	var rows []row
	for _, o := range []saga.Outcome{saga.Succeeded, saga.Failed, saga.Retry, saga.InProgress} {
		if s.step == "" { // nothing was ever sent
			break
		}
		r := answer(l.command(s.step, s.phase), o)
		if o == saga.InProgress {
			r.Extend = time.Minute
		}
		rows = append(rows, row{"`" + s.step + "` " + string(s.phase) + ": `" + string(o) + "`", r, l.now})
	}
	if s.step != "" {
		rows = append(rows, row{"… its command cannot be published", undeliverable(l.command(s.step, s.phase)), l.now})
	}
	due := l.now
	if at := l.state.WakeAt(); !at.IsZero() {
		due = at
	}
	rows = append(rows, row{"what is due next", saga.Tick{}, due}, row{"… its command is withheld", saga.Tick{Publication: saga.Withheld}, due})
	if !l.state.DeadlineAt.IsZero() {
		rows = append(rows, row{"the saga's deadline, and all that is due by then", saga.Tick{}, l.state.DeadlineAt})
	}
	if l.state.Lock != nil {
		rows = append(rows, row{"its lock is granted", saga.Granted{}, l.now})
	}
	rows = append(rows, row{"cancel", saga.Cancel{}, l.now}, row{"retry", saga.TryNow{}, l.now})
	for _, o := range []saga.Resolution{saga.ResolveSucceeded, saga.ResolveFailed, saga.ResolveSkipped} {
		if s.step == "" {
			break
		}
		rows = append(rows, row{"resolve `" + s.step + "` as " + string(o), saga.Resolve{Step: s.step, Phase: s.phase, Outcome: o}, l.now})
	}
	for _, timer := range saga.Timers(l.def, l.state) {
		name := "the " + string(timer.Kind)
		if timer.Step != "" {
			name += " of `" + timer.Step + "`"
		}
		rows = append(rows, row{name + " is moved to now", saga.Reschedule{Timer: timer.Awaited, At: l.now}, l.now},
			row{name + " is removed", saga.Reschedule{Timer: timer.Awaited}, l.now})
	}
	return append(rows, row{"pause", saga.Pause{}, l.now}, row{"resume", saga.Resume{}, l.now}, row{"abandon", saga.Abandon{}, l.now})
}

// inFull is a state with all that decides what comes next.
func (l *life) inFull(s saga.State) string {
	text := string(s.Status) + ":"
	for i, step := range l.def.Steps {
		text += " " + step.Name + "=" + string(s.Steps[i].Status)
		if s.Steps[i].Waiting {
			text += "(waits)"
		}
	}
	for _, flag := range []struct {
		set  bool
		name string
	}{{s.WaitsFor() != "", "waits for its " + string(s.WaitsFor())}, {s.Paused(), "paused"}, {s.CancelRequested, "cancel requested"}, {s.Overdue, "overdue"}} {
		if flag.set {
			text += ", " + flag.name
		}
	}
	return text
}

func (s situation) table(t *testing.T) string {
	t.Helper()
	l := &life{t: t, def: parse(t, s.text), now: t0}
	if s.step != "" {
		l = begin(t, s.text, `{}`)
	}
	s.reach(l)
	allowed := strings.Join(saga.Allowed(l.def, l.state), ", ")
	if allowed == "" {
		allowed = "nothing"
	}
	b := &strings.Builder{}
	fmt.Fprintf(b, "### %s\n\n`%s`\n\nAllowed: %s.\n\n| event | leads to | sends |\n|---|---|---|\n", s.name, l.inFull(l.state), allowed)
	for _, h := range s.happens(l) {
		d, err := saga.Advance(l.def, l.state, h.ev, h.at)
		if err != nil {
			t.Fatal(err)
		}
		var sent []string
		for _, c := range d.Commands {
			sent = append(sent, fmt.Sprintf("`%s` #%d", c.Operation, c.Attempt))
		}
		leads := "`" + l.inFull(d.Next) + "`"
		switch {
		case d.Illegal != "":
			leads = "refused: " + d.Illegal
		case d.Ignored != "":
			leads = "nothing: " + d.Ignored
		}
		fmt.Fprintf(b, "| %s | %s | %s |\n", h.name, leads, strings.Join(sent, ", "))
	}
	return b.String()
}

// The page is what the machine does, not what somebody thought it did.
func TestThePageOfStatesIsWhatTheMachineDoes(t *testing.T) {
	t.Parallel()
	b := &strings.Builder{}
	b.WriteString(`# What leads to what

Written by the state machine itself: ` + "`go test ./internal/saga -run PageOfStates -update`" + ` makes this page, and the same test without
` + "`-update`" + ` fails if it is not what the code does. The rules behind it are in [definitions.md](definitions.md) and
[operations.md](operations.md), the words in [glossary.md](glossary.md).

Most tables are of a saga with a compensatable step ` + "`a`, a pivot `v` and a retriable step `r`" + `, one after the other, with a deadline of ten
minutes; those of two steps in flight are of two compensatable steps ` + "`a` and `b`, which begin together, and `c`" + ` behind both. An action has
two attempts, a compensation one. ` + "`#2`" + ` is a second attempt, ` + "`(waits)`" + ` a step that waits for its next one. *Nothing* means that the event is recorded as stale, or was asked for
before, and changes nothing; *refused* is a 409.

`)
	for _, s := range situations() {
		b.WriteString(s.table(t) + "\n")
	}
	text := strings.TrimSuffix(b.String(), "\n")
	if *update {
		if err := os.WriteFile(statesPage, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	page, err := os.ReadFile(statesPage)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(page), text); diff != "" {
		t.Errorf("docs/states.md is not what the machine does, see its first lines: -page +machine\n%s", diff)
	}
	for _, status := range []saga.StepStatus{
		saga.StepPending, saga.StepRunning, saga.StepSucceeded, saga.StepFailed, saga.StepUnknown, saga.StepCompensating,
		saga.StepCompensated, saga.StepSkipped, saga.StepStuck,
	} {
		if !strings.Contains(text, "="+string(status)) {
			t.Errorf("no table has a step that is %s", status)
		}
	}
}

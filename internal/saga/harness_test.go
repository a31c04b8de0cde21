package saga_test

import (
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/skald-saga/skald/internal/saga"
)

const id = "019ab8b1-6a10-7c44-8a53-3f4a8d5f7e00"

var t0 = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)

// The definitions of most tests. Three steps, of which the first two can be
// undone, and the same with a pivot and a retriable step behind it.
const (
	linear = `
name: linear
steps:
  - {name: a, participant: p, action: do-a, compensation: undo-a, retry: {max_attempts: 2}, compensation_retry: {max_attempts: 2}}
  - {name: b, participant: p, action: do-b, compensation: undo-b, retry: {max_attempts: 2}, compensation_retry: {max_attempts: 2}}
  - {name: c, participant: p, action: do-c, compensation: undo-c, retry: {max_attempts: 2}, compensation_retry: {max_attempts: 2}}
`
	pivoted = `
name: pivoted
deadline: 10m
steps:
  - {name: a, participant: p, action: do-a, compensation: undo-a, retry: {max_attempts: 2}}
  - {name: v, participant: p, action: do-v, kind: pivot, retry: {max_attempts: 2}}
  - {name: r, participant: p, action: do-r, kind: retriable, retry: {max_attempts: 3}}
`
	// Two branches that begin together, and a step that needs both.
	parallel = `
name: parallel
deadline: 10m
steps:
  - {name: a, participant: p, action: do-a, compensation: undo-a, after: [], retry: {max_attempts: 2}, compensation_retry: {max_attempts: 1}}
  - {name: b, participant: p, action: do-b, compensation: undo-b, after: [], retry: {max_attempts: 2}, compensation_retry: {max_attempts: 1}}
  - {name: c, participant: p, action: do-c, compensation: undo-c, after: [a, b], retry: {max_attempts: 2}, compensation_retry: {max_attempts: 1}}
`
)

func parse(t rapid.TB, text string) *saga.Definition {
	t.Helper()
	def, err := saga.Parse([]byte(text))
	if err != nil {
		t.Fatalf("parse definition: %v", err)
	}
	return def
}

// life is one saga in a test: what the shell would hold of it. Every event goes
// through give, which checks the laws that hold for all events.
type life struct {
	t       rapid.TB
	def     *saga.Definition
	now     time.Time
	state   saga.State
	history []saga.Entry
	read    []saga.Entry // the history as it comes out of the database
	sent    []saga.Command
	latest  []saga.Command // of the latest decision
	held    []string       // participants that get no commands
}

func begin(t rapid.TB, text, input string) *life {
	t.Helper()
	return beginAs(t, parse(t, text), id, input)
}

func beginAs(t rapid.TB, def *saga.Definition, id, input string) *life {
	t.Helper()
	l := &life{t: t, def: def, now: t0}
	d, err := saga.Start(def, id, json.RawMessage(input), l.now)
	if err != nil {
		t.Fatalf("start: %v", err)
	}
	l.take(d)
	return l
}

// give applies one event and checks what must hold for every event.
func (l *life) give(ev saga.Event) saga.Decision {
	l.t.Helper()
	before := clone(l.t, l.state)
	d, err := saga.Advance(l.def, l.state, ev, l.now, l.held...)
	if err != nil {
		l.t.Fatalf("%+v: %v", ev, err)
	}
	same(l.t, "Advance changed the state that it was given", before, l.state)
	if d.Ignored != "" || d.Illegal != "" {
		// P6: what is stale leaves no trace.
		same(l.t, "what was ignored changed the state", before, d.Next)
		if len(d.History) != 0 || len(d.Commands) != 0 {
			l.t.Fatalf("%+v was ignored (%s%s) but has %d entries and %d commands", ev, d.Ignored, d.Illegal, len(d.History), len(d.Commands))
		}
		l.latest = nil
		return d
	}
	if before.Status.Ended() && (d.History[0].Type != saga.StepDisputed || d.Next.Status != saga.Stuck) {
		l.t.Fatalf("%+v changed a saga that had ended as %s", ev, before.Status)
	}
	if len(d.History) == 0 {
		l.t.Fatalf("%+v was neither ignored nor recorded", ev)
	}
	l.take(d)
	return d
}

func (l *life) take(d saga.Decision) {
	l.t.Helper()
	for _, c := range d.Commands {
		if slices.Contains(l.held, c.Participant) {
			l.t.Fatalf("%s is held and gets %s", c.Participant, c.Operation)
		}
	}
	l.history = append(l.history, d.History...)
	l.read = append(l.read, storedEntries(l.t, d.History, l.now)...)
	l.sent, l.latest = append(l.sent, d.Commands...), d.Commands
	l.state = d.Next
	l.checkFold()
	l.checkWake()
	// The shell reads back what it stored before it decides again.
	l.state = clone(l.t, l.state)
}

// P7: history is the state, in memory and as the database has it.
func (l *life) checkFold() {
	l.t.Helper()
	same(l.t, "history does not survive its storage", l.history, l.read)
	same(l.t, "the state does not survive its storage", l.state, clone(l.t, l.state))
	folded, err := saga.Fold(l.def, l.state.ID, l.state.Input, l.read)
	if err != nil {
		l.t.Fatalf("fold: %v", err)
	}
	same(l.t, "history folds to another state", l.state, folded)
}

// same fails the test if two values differ. It is quick if they do not.
func same(t rapid.TB, what string, want, got any) {
	t.Helper()
	if reflect.DeepEqual(want, got) {
		return
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Fatalf("%s:\n%s", what, diff)
	}
}

// storedEntries are a decision's entries after they were stored and read.
func storedEntries(t rapid.TB, entries []saga.Entry, at time.Time) []saga.Entry {
	t.Helper()
	b, err := json.Marshal(entries)
	if err != nil {
		t.Fatalf("encode history: %v", err)
	}
	var read []saga.Entry
	if err := json.Unmarshal(b, &read); err != nil {
		t.Fatalf("decode history: %v", err)
	}
	for i := range read {
		read[i].At = at
	}
	return read
}

// P2: a saga that waits for something wakes up some time.
func (l *life) checkWake() {
	l.t.Helper()
	open := l.state.Status == saga.Running || l.state.Status == saga.Compensating
	if open && !l.state.Paused() && !l.state.Held() && l.state.WaitsFor() != saga.ForLock && l.state.WakeAt().IsZero() {
		l.t.Fatalf("the saga is %s and nothing will ever wake it: %+v", l.state.Status, l.state)
	}
	if l.state.Status.Ended() && !l.state.WakeAt().IsZero() {
		l.t.Fatalf("the saga is %s and wants to be woken at %s", l.state.Status, l.state.WakeAt())
	}
	if lock := l.state.Lock; lock != nil && l.state.Status.Ended() && lock.State != saga.LockReleased {
		l.t.Fatalf("the saga is %s and its lock %s", l.state.Status, lock.State)
	}
}

// clone is the state after it was stored and read.
func clone(t rapid.TB, s saga.State) saga.State {
	t.Helper()
	b, err := json.Marshal(s)
	if err != nil {
		t.Fatalf("encode state: %v", err)
	}
	c := saga.State{ID: s.ID, Input: s.Input}
	if err := json.Unmarshal(b, &c); err != nil {
		t.Fatalf("decode state: %v", err)
	}
	return c
}

// command is the latest command of a step's phase.
func (l *life) command(step string, phase saga.Phase) saga.Command {
	l.t.Helper()
	for i := len(l.sent) - 1; i >= 0; i-- {
		if l.sent[i].Step == step && l.sent[i].Phase == phase {
			return l.sent[i]
		}
	}
	l.t.Fatalf("no %s of step %s was ever sent", phase, step)
	return saga.Command{}
}

// answer is a reply to a command.
func answer(c saga.Command, outcome saga.Outcome) saga.Reply {
	return saga.Reply{Step: c.Step, Phase: c.Phase, Generation: c.Generation, Attempt: c.Attempt, Outcome: outcome}
}

// act and undo answer the latest command of a step's action, or compensation.
func (l *life) act(step string, outcome saga.Outcome) saga.Decision {
	l.t.Helper()
	return l.give(answer(l.command(step, saga.Action), outcome))
}

func (l *life) undo(step string, outcome saga.Outcome) saga.Decision {
	l.t.Helper()
	return l.give(answer(l.command(step, saga.Compensation), outcome))
}

// wake lets time pass until the saga wants to be woken, and wakes it.
func (l *life) wake() saga.Decision {
	l.t.Helper()
	at := l.state.WakeAt()
	if at.IsZero() {
		l.t.Fatalf("the saga is %s and waits for no time", l.state.Status)
	}
	if at.After(l.now) {
		l.now = at
	}
	return l.give(saga.Tick{})
}

// exhaust lets time pass until the step's action is given up.
func (l *life) exhaust(step string) {
	l.t.Helper()
	for range 100 {
		if l.step(step).Status != saga.StepRunning {
			return
		}
		l.wake()
	}
	l.t.Fatalf("step %s still waits: %+v", step, l.step(step))
}

func (l *life) step(name string) saga.StepState { return l.state.Steps[l.def.Index(name)] }

// want compares the saga's status and its steps with "status: a=b c=d".
func (l *life) want(picture string) {
	l.t.Helper()
	if got := l.picture(); got != picture {
		l.t.Fatalf("the saga is\n  %s, want\n  %s", got, picture)
	}
}

func (l *life) picture() string {
	words := []string{string(l.state.Status) + ":"}
	for i, s := range l.def.Steps {
		words = append(words, s.Name+"="+string(l.state.Steps[i].Shown()))
	}
	return strings.Join(words, " ")
}

// wantSent compares the commands of the latest decision, as "operation#attempt".
func (l *life) wantSent(want ...string) {
	l.t.Helper()
	var got []string
	for _, c := range l.latest {
		name := fmt.Sprintf("%s#%d", c.Operation, c.Attempt)
		if c.Generation > 1 {
			name = fmt.Sprintf("%s~%d#%d", c.Operation, c.Generation, c.Attempt)
		}
		got = append(got, name)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		l.t.Fatalf("commands: -want +got\n%s", diff)
	}
}

// wantStale checks that an event was ignored for that reason. give has checked
// that it changed nothing.
func wantStale(t testing.TB, d saga.Decision, reason string) {
	t.Helper()
	if d.Ignored != reason {
		t.Errorf("ignored because %q, want %q", d.Ignored, reason)
	}
}

// types are the kinds of the entries of a decision.
func types(d saga.Decision) []saga.EntryType {
	var words []saga.EntryType
	for _, e := range d.History {
		words = append(words, e.Type)
	}
	return words
}

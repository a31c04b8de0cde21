package saga

import (
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Kind says what a step means for the saga's way back.
type Kind string

// The kinds of steps.
const (
	Compensatable Kind = "compensatable" // undone when the saga turns back
	Pivot         Kind = "pivot"         // the point of no return: once it succeeds, only forward
	Retriable     Kind = "retriable"     // after the pivot: tried until it succeeds
	Notification  Kind = "notification"  // anywhere: sent, and no answer awaited. It never decides how a saga goes on
)

// Definition is one immutable version of a kind of saga. Get one from [Parse];
// it is safe for concurrent use. Name, Version and Digest identify it.
type Definition struct {
	Name        string
	Version     int // given by whoever stores it, from 1
	Deadline    time.Duration
	OnDeadline  OnDeadline
	OnStuck     OnStuck         // of compensations
	MaxParallel int             // most steps in flight at once, forward or back; 0: no limit
	Events      Events          // which facts of its sagas are published
	InputSchema json.RawMessage // a JSON Schema that the input must fit; nil: any. Whoever starts a saga checks it
	Search      []string        // paths into the input that its sagas are found by
	Steps       []Step          // in dependency order

	Source []byte // canonical JSON of what was parsed
	Digest string // hex SHA-256 of Source

	pivot int         // index of the pivot; -1: none
	lock  *expression // gives the key of a saga's lock; nil: none has one
}

// OnDeadline says what becomes of a saga whose deadline passes before the pivot.
type OnDeadline string

// What a deadline does.
const (
	DeadlineCompensates OnDeadline = "compensate"
	DeadlineSuspends    OnDeadline = "suspend" // paused, until an operator decides
)

// OnStuck says what becomes of the compensations behind one that is stuck.
type OnStuck string

// What a stuck compensation does to those behind it.
const (
	StuckWaits     OnStuck = "wait"
	StuckContinues OnStuck = "continue"
)

// Events says which facts of a saga's history are published as messages.
type Events string

// How much of its sagas' lives a definition publishes.
const (
	EventsNone     Events = "none"
	EventsTerminal Events = "terminal" // the end, and that a saga is stuck or suspended: what somebody must know
	EventsAll      Events = "all"
)

// Has reports whether facts of a type are published.
func (e Events) Has(t EntryType) bool {
	switch e {
	case EventsTerminal:
		return t == EndedCompleted || t == EndedCompensated || t == EndedAbandoned || t == BecameStuck || t == Suspended
	case EventsAll:
		return true
	}
	return false
}

// Step is one step of a definition.
type Step struct {
	Name              string
	Participant       string
	Action            string // empty: nothing to do, only to undo
	Compensation      string // empty: nothing to undo
	Kind              Kind
	After             []int         // indexes of the steps that must be through first
	Timeout           time.Duration // of one attempt
	MaxDuration       time.Duration // from an effect's first command: how far in_progress may extend an attempt
	Retry             RetryPolicy
	CompensationRetry RetryPolicy

	when, payload *expression // nil: always, and everything known
	ancestors     []int       // all steps whose results its expressions may see
}

// RetryPolicy says how often and how soon an operation is tried again.
type RetryPolicy struct {
	MaxAttempts int           // 0: no limit
	Initial     time.Duration // upper bound of the first wait
	Max         time.Duration // upper bound of every wait
}

// Index finds a step by name; -1: there is none.
func (d *Definition) Index(name string) int {
	return slices.IndexFunc(d.Steps, func(s Step) bool { return s.Name == name })
}

// Participants lists the participants of all steps, each once, in order of
// first use.
func (d *Definition) Participants() []string {
	var names []string
	for _, s := range d.Steps {
		if !slices.Contains(names, s.Participant) {
			names = append(names, s.Participant)
		}
	}
	return names
}

// link fills in what follows from the graph and checks its rules.
func (d *Definition) link() []Problem {
	d.pivot = slices.IndexFunc(d.Steps, func(s Step) bool { return s.Kind == Pivot })
	for i := range d.Steps {
		s := &d.Steps[i]
		for _, p := range s.After {
			s.ancestors = append(append(s.ancestors, p), d.Steps[p].ancestors...)
		}
		slices.Sort(s.ancestors)
		s.ancestors = slices.Compact(s.ancestors)
	}
	var found []Problem
	for i, s := range d.Steps {
		if detail := d.misplaced(i, s); detail != "" {
			path := []string{"steps", strconv.Itoa(i), "kind"}
			found = append(found, Problem{Path: path, Detail: fmt.Sprintf("step %q: %s", s.Name, detail)})
		}
	}
	return found
}

// misplaced says what is wrong with a step's place in the graph.
func (d *Definition) misplaced(i int, s Step) string {
	switch {
	case s.Kind == Pivot && i != d.pivot:
		return fmt.Sprintf("the saga already has a pivot, %q", d.Steps[d.pivot].Name)
	case s.Kind == Compensatable && d.pivot >= 0 && !slices.Contains(d.Steps[d.pivot].ancestors, i):
		return fmt.Sprintf("a compensatable step must come before the pivot %q on every path", d.Steps[d.pivot].Name)
	case s.Kind == Retriable && d.pivot < 0:
		return "a retriable step needs a pivot before it"
	case s.Kind == Retriable && !slices.Contains(s.ancestors, d.pivot):
		return fmt.Sprintf("a retriable step must come after the pivot %q", d.Steps[d.pivot].Name)
	}
	return ""
}

// validName reports whether s may name a definition, step, participant or
// operation: it becomes part of subjects, effect ids and JSON keys.
func validName(s string) bool {
	return s != "" && len(s) <= 64 && strings.Trim(s, "abcdefghijklmnopqrstuvwxyz0123456789-") == ""
}

// Package saga decides what a saga does next, and never does it.
//
// Everything here is a function of its arguments: nothing reads a clock, a
// database or a socket, so every rule can be tested by calling it. The shell
// (package coordinator) stores a [Decision] in one transaction, or not at all.
//
// Read [Advance] first: it is the whole machine on one screen. What an event
// may do to one step is in reply.go and timer.go; what follows from the new
// state (next steps, compensations, the end) is in progress.go; how a state is
// made of its history is in history.go.
//
// The model is that of Garcia-Molina and Salem, "Sagas" (SIGMOD 1987), with
// the pivot and retriable steps of Mehrotra et al. (1992).
package saga

import (
	"encoding/json"
	"slices"
	"time"
)

// Status is where a saga stands. The words are stored: they may be added to,
// never renamed.
type Status string

// The statuses of a saga.
const (
	Running      Status = "running"
	Compensating Status = "compensating"
	Completed    Status = "completed"
	Compensated  Status = "compensated"
	Stuck        Status = "stuck"
	Abandoned    Status = "abandoned"
)

// Ended reports whether nothing will happen to the saga any more.
func (s Status) Ended() bool { return s == Completed || s == Compensated || s == Abandoned }

// StepStatus is where one step of a saga stands.
type StepStatus string

// The statuses of a step. A stuck step says in its Phase which of its two
// operations is meant.
const (
	StepPending      StepStatus = "pending"
	StepHeld         StepStatus = "held" // only shown, see [StepState.Shown]
	StepRunning      StepStatus = "running"
	StepSucceeded    StepStatus = "succeeded"
	StepFailed       StepStatus = "failed"
	StepUnknown      StepStatus = "unknown"
	StepCompensating StepStatus = "compensating"
	StepCompensated  StepStatus = "compensated"
	StepSkipped      StepStatus = "skipped"
	StepStuck        StepStatus = "stuck"
)

// Phase names the two operations of a step.
type Phase string

// The phases of a step.
const (
	Action       Phase = "action"
	Compensation Phase = "compensation"
)

// Failure says why something did not work. It is data: it is stored, shown to
// operators and never compared.
type Failure struct {
	Code    string `json:"code"`
	Message string `json:"message,omitempty"`
	Step    string `json:"step,omitempty"` // empty: the saga itself
}

// State is everything the machine knows of one saga besides its definition.
// ID and Input never change and are kept by the shell beside the encoded rest.
type State struct {
	ID    string          `json:"-"`
	Input json.RawMessage `json:"-"`

	Status          Status            `json:"status"`
	Steps           []StepState       `json:"steps"`
	StartAt         time.Time         `json:"start,omitzero"`    // no step begins before; zero: they may
	Lock            *Lock             `json:"lock,omitempty"`    // nil: it may run beside any other. Never changed in place
	RestartOf       string            `json:"of,omitempty"`      // id of the saga that this one takes up again
	Key             string            `json:"key,omitempty"`     // what people call it
	Labels          map[string]string `json:"labels,omitempty"`  // what people file it under; states share it
	Cause           *Failure          `json:"cause,omitempty"`   // why the saga turned back; nil while it goes forward
	DeadlineAt      time.Time         `json:"deadline,omitzero"` // zero: none, or already dealt with
	CancelRequested bool              `json:"cancel,omitempty"`  // by somebody, or by the deadline, while the pivot was in flight
	Overdue         bool              `json:"overdue,omitempty"` // the deadline passed after the point of no return, or suspended the saga
	PausedAt        time.Time         `json:"paused,omitzero"`   // zero: it is not
}

// StepState is what is known of one step. Generation, Attempt, IssuedAt, DueAt
// and Waiting belong to the operation named by Phase.
type StepState struct {
	Status     StepStatus      `json:"s"`
	Phase      Phase           `json:"p,omitempty"`  // empty: nothing issued yet
	Generation int             `json:"g,omitempty"`  // of the current effect id, from 1
	ActionGen  int             `json:"ag,omitempty"` // generation of the action, once it is compensated
	Attempt    int             `json:"a,omitempty"`  // of the phase, from 1, over all generations
	IssuedAt   time.Time       `json:"i,omitzero"`   // first command of the current effect id
	DueAt      time.Time       `json:"d,omitzero"`   // when to stop waiting; zero: nothing is awaited
	Waiting    bool            `json:"w,omitempty"`  // backing off: DueAt is when the next attempt goes out
	Held       bool            `json:"h,omitempty"`  // its participant is: the next command is withheld or, of what is in flight, no time runs
	Unknown    bool            `json:"u,omitempty"`  // the action may or may not have happened
	Result     json.RawMessage `json:"r,omitempty"`  // of the action
	Error      *Failure        `json:"e,omitempty"`  // the latest failure of the current phase
	Notes      *Notes          `json:"n,omitempty"`  // nil for most steps; never changed in place, see note
}

// Shown is the step's status as people see it: [StepHeld] if its next command
// is withheld.
func (st StepState) Shown() StepStatus {
	inFlight := st.Status == StepRunning || st.Status == StepCompensating
	if st.Held && st.Status != StepStuck && (!inFlight || st.Waiting) {
		return StepHeld
	}
	return st.Status
}

// Held reports whether a participant that is held keeps anything of the saga
// waiting.
func (s State) Held() bool {
	return slices.ContainsFunc(s.Steps, func(st StepState) bool { return st.Held })
}

// Notes is what only a step in trouble needs. It is kept apart so that the
// states of all others stay small.
type Notes struct {
	Spent       int             `json:"b,omitempty"`  // attempts before an operator gave the operation new ones
	Resolved    bool            `json:"o,omitempty"`  // an operator has said how the current operation ended
	Disputed    bool            `json:"c,omitempty"`  // a reply has contradicted that: only an operator decides now
	Payload     json.RawMessage `json:"pl,omitempty"` // given by an operator in place of the one that could not be made
	ActionError *Failure        `json:"ae,omitempty"` // why the action was given up, once it is compensated
}

// Command is one message to a participant. The shell turns it into an outbox
// row in the transaction that stores the state it came with.
type Command struct {
	Step          string
	Participant   string
	Operation     string // the action's or the compensation's name
	Phase         Phase
	Generation    int
	Attempt       int
	EffectTime    time.Time // first issue of this effect id
	NotAfter      time.Time // the saga's deadline; zero: none. A participant should not start later (an optimisation, never relied on)
	ActionOutcome Outcome   // compensations only: Succeeded, or "unknown"
	ActionGen     int       // compensations only: the generation of the action that it undoes
	Payload       json.RawMessage
}

// Decision is the answer to "what now?". The shell stores Next and History and
// appends Commands to the outbox in one transaction, or does nothing.
type Decision struct {
	Next     State
	History  []Entry
	Commands []Command
	Ignored  string // why the event changed nothing; empty if it did
	Illegal  string // why an operator's request was refused: a code below; empty if it was not
}

// Why an operator's request is refused.
const (
	IllegalEnded          = "saga-already-terminal"
	IllegalPastPivot      = "past-pivot"
	IllegalNothingToRetry = "nothing-to-retry"
	IllegalPayload        = "payload-already-sent"
	IllegalNotStuck       = "step-not-stuck"
	IllegalOutcome        = "outcome-not-possible"
	IllegalPaused         = "saga-paused"
	IllegalNotUndone      = "saga-not-undone"
	IllegalPivotStuck     = "pivot-stuck"
	IllegalNoTimer        = "timer-gone"
	IllegalTimerNeeded    = "timer-needed"
)

// Paused reports whether no command is issued until somebody resumes the saga.
func (s State) Paused() bool { return !s.PausedAt.IsZero() }

// Waits is what a saga that has done nothing yet waits for.
type Waits string

// What a saga waits for before it begins.
const (
	ForStart Waits = "start" // its start time
	ForLock  Waits = "lock"  // sagas before it that hold, or wait for, the lock of the same key
)

// WaitsFor is what keeps the saga from beginning; empty: nothing, or it has.
func (s State) WaitsFor() Waits {
	switch {
	case !s.StartAt.IsZero():
		return ForStart
	case s.Lock != nil && s.Lock.State == LockWaiting:
		return ForLock
	}
	return ""
}

// WakeAt is the earliest time at which s wants a [Tick]; zero if it waits for
// nothing but replies and people.
func (s State) WakeAt() time.Time {
	if s.Paused() {
		return time.Time{}
	}
	wake := s.DeadlineAt
	if at := s.StartAt; !at.IsZero() && (wake.IsZero() || at.Before(wake)) {
		wake = at
	}
	for i := range s.Steps {
		if due := s.Steps[i].DueAt; !due.IsZero() && (wake.IsZero() || due.Before(wake)) {
			wake = due
		}
	}
	return wake
}

// Failure is why the saga turned back or, if it did not, why it is stuck; nil
// if nothing is wrong.
func (s State) Failure() *Failure {
	if s.Cause != nil {
		return s.Cause
	}
	for i := range s.Steps {
		if s.Steps[i].Status == StepStuck {
			return s.Steps[i].Error
		}
	}
	return nil
}

// Trouble is what went wrong with one operation of a step.
type Trouble struct {
	Failure
	Phase Phase
}

// Troubles lists all that is wrong: for each step why its action failed or was
// given up, and what is the matter with its compensation.
func (s State) Troubles(def *Definition) []Trouble {
	var all []Trouble
	for i, st := range s.Steps {
		add := func(f *Failure, phase Phase) {
			if f != nil {
				all = append(all, Trouble{Failure{Code: f.Code, Message: f.Message, Step: def.Steps[i].Name}, phase})
			}
		}
		if st.Notes != nil {
			add(st.Notes.ActionError, Action)
		}
		if st.Phase == Compensation {
			add(st.Error, Compensation)
		} else {
			add(st.Error, Action)
		}
	}
	return all
}

// pivotPassed reports whether the saga can only go forward.
func pivotPassed(def *Definition, s State) bool {
	i := def.pivot
	if i < 0 || s.Cause != nil {
		return false
	}
	return through(s.Steps[i]) || (s.Steps[i].disputed() && begunBehind(def, s))
}

// begunBehind reports whether a step behind the pivot has been begun: whatever
// becomes of the pivot, such a step cannot be undone.
func begunBehind(def *Definition, s State) bool {
	for i, step := range def.Steps {
		if step.Kind == Retriable && s.Steps[i].Phase != "" {
			return true
		}
	}
	return false
}

// pivotInFlight reports whether the pivot's command was written and its
// outcome is awaited: the point of no return may or may not be behind us.
func pivotInFlight(def *Definition, s State) bool {
	return def.pivot >= 0 && s.Steps[def.pivot].Status == StepRunning
}

// pivotStuck reports whether an operator must say what became of the pivot.
func pivotStuck(def *Definition, s State) bool {
	return def.pivot >= 0 && s.Steps[def.pivot].Status == StepStuck
}

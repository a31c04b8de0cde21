package saga

import (
	"encoding/json"
	"fmt"
	"slices"
	"time"
)

// EntryType names a fact in a saga's history. The words are stored.
type EntryType string

// The facts of a saga's life, in the order in which they usually come.
const (
	Started          EntryType = "started"
	BecameDue        EntryType = "due" // its start time has come
	LockGranted      EntryType = "lock-granted"
	CommandIssued    EntryType = "command-issued"
	StepHold         EntryType = "step-held"     // its participant is held: a command was withheld or, of one in flight, no time runs
	StepRelease      EntryType = "step-released" // it is not held any more, and what it waits for is something else
	StepSkip         EntryType = "step-skipped"
	StepSuccess      EntryType = "step-succeeded"
	RetryScheduled   EntryType = "retry-scheduled"
	DeadlineExtended EntryType = "deadline-extended"
	StepFailure      EntryType = "step-failed"
	StepGivenUp      EntryType = "step-unknown"
	StepUndone       EntryType = "step-compensated"
	StepNeedsHelp    EntryType = "step-stuck"
	StepDisputed     EntryType = "step-contradicted" // a reply contradicts what an operator resolved
	TurnedBack       EntryType = "compensating"
	CancelAsked      EntryType = "cancel-requested"
	StartMoved       EntryType = "start-moved"    // by an operator, with the deadline
	DeadlineMoved    EntryType = "deadline-moved" // by an operator; without a time: there is none any more
	TimerMoved       EntryType = "timer-moved"    // by an operator: a step's
	RetryAsked       EntryType = "retry-requested"
	StepResolved     EntryType = "step-resolved"   // by an operator; what follows from it comes next
	DeadlinePassed   EntryType = "deadline-passed" // while the pivot was in flight
	BecameOverdue    EntryType = "overdue"
	Paused           EntryType = "paused"
	Suspended        EntryType = "suspended" // paused by its deadline
	Resumed          EntryType = "resumed"
	BecameStuck      EntryType = "stuck"
	NoLongerStuck    EntryType = "unstuck"
	EndedCompleted   EntryType = "completed"
	EndedCompensated EntryType = "compensated"
	EndedAbandoned   EntryType = "abandoned"
)

// Entry is one fact. Entries with the same At were decided together. A state
// is nothing but its entries applied in order, so history cannot drift from it.
type Entry struct {
	Type       EntryType         `json:"t"`
	At         time.Time         `json:"-"`           // kept once for all entries of a decision
	Step       int               `json:"n,omitempty"` // 1 for the first step; 0: the saga itself
	Phase      Phase             `json:"p,omitempty"`
	Generation int               `json:"g,omitempty"`
	Attempt    int               `json:"a,omitempty"`
	DueAt      time.Time         `json:"d,omitzero"`
	StartAt    time.Time         `json:"start,omitzero"` // of the start, and where it was moved: when the first steps may begin
	Lock       string            `json:"lock,omitempty"` // of the start: the key of the saga's lock
	Result     json.RawMessage   `json:"r,omitempty"`
	Error      *Failure          `json:"e,omitempty"`
	Reason     string            `json:"why,omitempty"`
	Actor      string            `json:"by,omitempty"`
	Payload    json.RawMessage   `json:"in,omitempty"`  // given by an operator
	RestartOf  string            `json:"of,omitempty"`  // of the start: the saga that is taken up again
	Key        string            `json:"key,omitempty"` // of the start, and the labels too
	Labels     map[string]string `json:"labels,omitempty"`
}

// Fold makes a saga's state of its history (promise P7). It returns an error
// if the entries cannot be the history of a saga of this definition.
func Fold(def *Definition, id string, input json.RawMessage, history []Entry) (State, error) {
	s := State{ID: id, Input: input}
	if len(history) == 0 {
		return State{}, fmt.Errorf("fold history of saga %s: it is empty", id)
	}
	for i, e := range history {
		if e.Step < 0 || e.Step > len(def.Steps) || (i == 0) != (e.Type == Started) || (i == 0 && e.Step != 0) {
			return State{}, fmt.Errorf("fold history of saga %s: entry %d (%s, step %d) does not belong there", id, i+1, e.Type, e.Step)
		}
		s.apply(e, len(def.Steps))
	}
	return s, nil
}

// apply is the only place where a state changes.
func (s *State) apply(e Entry, steps int) {
	if e.Step > 0 {
		s.Steps[e.Step-1].apply(e)
		return
	}
	switch e.Type {
	case Started:
		s.Status, s.StartAt, s.DeadlineAt, s.RestartOf = Running, e.StartAt, e.DueAt, e.RestartOf
		s.Key, s.Labels = e.Key, e.Labels
		if e.Lock != "" {
			s.Lock = &Lock{Key: e.Lock, State: LockWaiting}
		}
		s.Steps = slices.Repeat([]StepState{{Status: StepPending}}, steps)
	case BecameDue:
		s.StartAt = time.Time{}
	case StartMoved:
		s.StartAt, s.DeadlineAt = e.StartAt, e.DueAt
	case DeadlineMoved:
		s.DeadlineAt = e.DueAt
	case LockGranted:
		s.lockTo(LockHeld)
	case TurnedBack:
		s.Status, s.Cause, s.StartAt, s.DeadlineAt = Compensating, e.Error, time.Time{}, time.Time{}
		for i := range s.Steps {
			s.Steps[i].Held = s.Steps[i].Held && s.Steps[i].Status != StepPending // it will not be sent
		}
	case CancelAsked:
		s.CancelRequested = true
	case DeadlinePassed:
		s.CancelRequested, s.DeadlineAt = true, time.Time{}
	case BecameOverdue:
		s.Overdue, s.DeadlineAt = true, time.Time{}
	case Paused:
		s.PausedAt = e.At
	case Suspended:
		s.PausedAt, s.Overdue, s.DeadlineAt = e.At, true, time.Time{}
	case Resumed:
		s.resume(e.At)
	case BecameStuck:
		s.Status = Stuck
	case NoLongerStuck:
		s.Status = Running
		if s.Cause != nil {
			s.Status = Compensating
		}
	case EndedCompleted:
		s.end(Completed)
	case EndedCompensated:
		s.end(Compensated)
	case EndedAbandoned:
		s.end(Abandoned)
	}
}

func (s *State) end(status Status) {
	s.lockTo(LockReleased)
	s.Status, s.StartAt, s.DeadlineAt, s.PausedAt = status, time.Time{}, time.Time{}, time.Time{}
	for i := range s.Steps {
		s.Steps[i].Held = false
	}
}

// resume shifts what is awaited by the length of the pause: the deadline, and
// what is in flight. What waited for its next attempt, or for its start, need
// not wait longer; before the start the deadline's time does not run.
func (s *State) resume(at time.Time) {
	from := s.PausedAt
	if s.StartAt.After(from) {
		from = s.StartAt
	}
	pause := max(at.Sub(from), 0)
	s.PausedAt = time.Time{}
	if !s.DeadlineAt.IsZero() {
		s.DeadlineAt = s.DeadlineAt.Add(pause)
	}
	for i := range s.Steps {
		if st := &s.Steps[i]; !st.DueAt.IsZero() && !st.Waiting {
			st.DueAt = st.DueAt.Add(pause)
		}
	}
}

func (st *StepState) apply(e Entry) {
	switch e.Type {
	case CommandIssued:
		if st.Status == StepStuck {
			st.note(func(n *Notes) { n.Spent, n.Resolved, n.Disputed = e.Attempt-1, false, false })
		}
		st.turnTo(e.Phase)
		if e.Phase != st.Phase || e.Generation != st.Generation || st.IssuedAt.IsZero() {
			st.IssuedAt = e.At
		}
		st.Phase, st.Generation, st.Attempt = e.Phase, e.Generation, e.Attempt
		st.DueAt, st.Waiting, st.Held = e.DueAt, false, false
		st.Status = StepRunning
		if e.Phase == Compensation {
			st.Status = StepCompensating
		}
		if e.Attempt == 1 {
			st.Error = nil
		}
	case StepHold:
		st.DueAt, st.Held = time.Time{}, true
	case StepRelease:
		st.Held = false
	case RetryScheduled:
		if e.Generation != st.Generation {
			st.Generation, st.IssuedAt = e.Generation, time.Time{}
		}
		st.DueAt, st.Waiting, st.Held, st.Error = e.DueAt, true, false, e.Error
	case DeadlineExtended:
		st.DueAt, st.Waiting, st.Held = e.DueAt, false, false
	case TimerMoved:
		st.DueAt = e.DueAt
	case StepSkip:
		st.settle(StepSkipped, nil)
	case StepSuccess:
		st.settle(StepSucceeded, nil)
		st.Result, st.Unknown = e.Result, false
	case StepFailure:
		st.settle(StepFailed, e.Error)
		st.Unknown = false
	case StepGivenUp:
		st.settle(StepUnknown, e.Error)
		st.Unknown = true
	case StepUndone:
		st.settle(StepCompensated, nil)
	case StepNeedsHelp:
		st.turnTo(e.Phase)
		st.Phase = e.Phase
		if e.Generation > st.Generation { // the current one has definitively failed
			st.Generation, st.IssuedAt = e.Generation, time.Time{}
		}
		st.settle(StepStuck, e.Error)
	case StepDisputed:
		if e.Generation > st.Generation {
			st.Generation, st.IssuedAt = e.Generation, time.Time{}
		}
		st.settle(StepStuck, e.Error)
		st.note(func(n *Notes) { n.Disputed = true })
	case StepResolved:
		st.note(func(n *Notes) { n.Resolved = true })
	case RetryAsked:
		if e.Payload != nil {
			st.note(func(n *Notes) { n.Payload = e.Payload })
		}
	}
}

// turnTo begins another phase: of the action, what its compensation needs to
// know is kept.
func (st *StepState) turnTo(phase Phase) {
	if phase != Compensation || st.Phase == Compensation {
		return
	}
	st.ActionGen, st.Generation, st.Attempt, st.IssuedAt = st.Generation, 0, 0, time.Time{}
	failure := st.Error
	if st.Notes != nil || failure != nil {
		st.note(func(n *Notes) { *n = Notes{ActionError: failure} })
	}
}

// note changes a copy of the step's notes: states share them.
func (st *StepState) note(change func(*Notes)) {
	var n Notes
	if st.Notes != nil {
		n = *st.Notes
	}
	change(&n)
	st.Notes = &n
}

// settle ends the wait for the current operation.
func (st *StepState) settle(status StepStatus, err *Failure) {
	st.Status, st.Error, st.DueAt, st.Waiting, st.Held = status, err, time.Time{}, false, false
}

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
	CommandIssued    EntryType = "command-issued"
	StepSkip         EntryType = "step-skipped"
	StepSuccess      EntryType = "step-succeeded"
	RetryScheduled   EntryType = "retry-scheduled"
	DeadlineExtended EntryType = "deadline-extended"
	StepFailure      EntryType = "step-failed"
	StepGivenUp      EntryType = "step-unknown"
	StepUndone       EntryType = "step-compensated"
	StepNeedsHelp    EntryType = "step-stuck"
	TurnedBack       EntryType = "compensating"
	CancelAsked      EntryType = "cancel-requested"
	DeadlinePassed   EntryType = "deadline-passed" // while the pivot was in flight
	BecameOverdue    EntryType = "overdue"
	BecameStuck      EntryType = "stuck"
	NoLongerStuck    EntryType = "unstuck"
	EndedCompleted   EntryType = "completed"
	EndedCompensated EntryType = "compensated"
)

// Entry is one fact. Entries with the same At were decided together. A state
// is nothing but its entries applied in order, so history cannot drift from it.
type Entry struct {
	Type       EntryType       `json:"t"`
	At         time.Time       `json:"-"`           // kept once for all entries of a decision
	Step       int             `json:"n,omitempty"` // 1 for the first step; 0: the saga itself
	Phase      Phase           `json:"p,omitempty"`
	Generation int             `json:"g,omitempty"`
	Attempt    int             `json:"a,omitempty"`
	DueAt      time.Time       `json:"d,omitzero"`
	Result     json.RawMessage `json:"r,omitempty"`
	Error      *Failure        `json:"e,omitempty"`
	Reason     string          `json:"why,omitempty"`
	Actor      string          `json:"by,omitempty"`
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
		s.Status, s.DeadlineAt = Running, e.DueAt
		s.Steps = slices.Repeat([]StepState{{Status: StepPending}}, steps)
	case TurnedBack:
		s.Status, s.Cause, s.DeadlineAt = Compensating, e.Error, time.Time{}
	case CancelAsked:
		s.CancelRequested = true
	case DeadlinePassed:
		s.CancelRequested, s.DeadlineAt = true, time.Time{}
	case BecameOverdue:
		s.Overdue, s.DeadlineAt = true, time.Time{}
	case BecameStuck:
		s.Status = Stuck
	case NoLongerStuck:
		s.Status = Running
		if s.Cause != nil {
			s.Status = Compensating
		}
	case EndedCompleted:
		s.Status, s.DeadlineAt = Completed, time.Time{}
	case EndedCompensated:
		s.Status, s.DeadlineAt = Compensated, time.Time{}
	}
}

func (st *StepState) apply(e Entry) {
	switch e.Type {
	case CommandIssued:
		if e.Phase != st.Phase || e.Generation != st.Generation || st.IssuedAt.IsZero() {
			st.IssuedAt = e.At
		}
		if e.Phase == Compensation && st.Phase == Action {
			st.ActionGen = st.Generation
		}
		st.Phase, st.Generation, st.Attempt = e.Phase, e.Generation, e.Attempt
		st.DueAt, st.Waiting = e.DueAt, false
		st.Status = StepRunning
		if e.Phase == Compensation {
			st.Status = StepCompensating
		}
		if e.Attempt == 1 {
			st.Error = nil
		}
	case RetryScheduled:
		if e.Generation != st.Generation {
			st.Generation, st.IssuedAt = e.Generation, time.Time{}
		}
		st.DueAt, st.Waiting, st.Error = e.DueAt, true, e.Error
	case DeadlineExtended:
		st.DueAt, st.Waiting = e.DueAt, false
	case StepSkip:
		st.Status = StepSkipped
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
		st.Phase = e.Phase
		st.settle(StepStuck, e.Error)
	}
}

// settle ends the wait for the current operation.
func (st *StepState) settle(status StepStatus, err *Failure) {
	st.Status, st.Error, st.DueAt, st.Waiting = status, err, time.Time{}, false
}

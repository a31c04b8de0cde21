package coordinator

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/skald-saga/skald/internal/saga"
)

// What callers branch on.
var (
	ErrNotFound          = errors.New("not found")
	ErrUnknownDefinition = errors.New("unknown definition")
	ErrStartTime         = errors.New("start time is out of bounds")
	ErrDeprecated        = errors.New("the definition is deprecated")
	ErrKeyReused         = errors.New("idempotency key was used with another request")
	ErrOverloaded        = errors.New("too many starts are waiting")
	ErrOutboxFull        = errors.New("too much waits in the outbox")
	ErrPrecondition      = errors.New("the saga has another version")
	ErrStopped           = errors.New("the coordinator has stopped")
)

// IllegalError refuses an operator's request that the saga's state does not
// allow.
type IllegalError struct {
	Action  string
	Code    string // saga.IllegalEnded, …
	Status  saga.Status
	Allowed []string // what is allowed now

	Resolutions []string // what may be said now of the step that was meant
}

func (e *IllegalError) Error() string {
	return fmt.Sprintf("%s: %s (the saga is %s)", e.Action, e.Code, e.Status)
}

// InputError says what is wrong with the data of a start.
type InputError struct{ Problems []InputProblem }

// InputProblem is one thing to change. Path leads to it from the top of the
// input: names, and indexes of arrays.
type InputProblem struct {
	Path   []string
	Detail string
}

func (e *InputError) Error() string {
	parts := make([]string, len(e.Problems))
	for i, p := range e.Problems {
		parts[i] = strings.Join(p.Path, "/") + ": " + p.Detail
	}
	return strings.Join(parts, "; ")
}

// Saga is a saga as people see it.
type Saga struct {
	ID                uuid.UUID
	Definition        string
	DefinitionVersion int
	Key               string // empty: it has none
	Labels            map[string]string
	Version           int64 // bumped by every change
	Status            saga.Status
	Input             json.RawMessage
	Steps             []Step
	Errors            []saga.Trouble // all that is wrong, of a saga that is stuck or abandoned
	Error             *Failure       // why it turned back, or why it is stuck
	CancelRequested   bool
	Overdue           bool
	PausedAt          *time.Time // nil: it is not paused
	WaitsFor          saga.Waits // what keeps it from beginning; empty: nothing
	StartAt           *time.Time // nil: it does not wait for that
	Lock              *Lock      // nil: it may run beside any other
	StaleReplies      int        // replies that changed nothing
	RestartOf         string     // id of the saga that this one takes up again; empty: none
	RestartedAs       uuid.UUID  // the saga that takes this one up; nil: none. Known where it is read, not where it is awaited
	CreatedAt         time.Time
	UpdatedAt         time.Time
	EndedAt           *time.Time
	Actions           []string // what an operator may ask for now
}

// Ended reports whether nothing will happen to the saga any more.
func (s Saga) Ended() bool { return s.Status.Ended() }

// Step is one step of a saga as people see it.
type Step struct {
	Name                string
	Participant         string
	Kind                string
	Status              saga.StepStatus
	Attempt             int // of the action or, once it is being undone, of the compensation
	CompensationAttempt int
	Result              json.RawMessage
	Error               *Failure
	DueAt               *time.Time // when the current attempt, or the wait for the next, ends
	Resolutions         []string   // what an operator may say of it now; nothing unless it is stuck
	StuckPhase          saga.Phase // which of its operations is stuck
}

// Failure says what went wrong, and where.
type Failure = saga.Failure

// HistoryEvent is one fact of a saga's history.
type HistoryEvent struct {
	Seq        int // from 1, without gaps
	Version    int64
	At         time.Time
	Type       string
	Step       string // empty: the saga itself
	Phase      string
	Generation int
	Attempt    int
	DueAt      *time.Time
	StartAt    *time.Time // of the start: when the first steps may begin
	Lock       string     // of the start: the key of its lock; empty: it needs none
	Result     json.RawMessage
	Error      *Failure
	Reason     string
	Actor      string
	Payload    json.RawMessage // given by an operator
	RestartOf  string          // of the start: the saga that is taken up again
}

// view makes the read model.
func view(def *saga.Definition, s saga.State, version int64, created, updated time.Time, stale int) (Saga, error) {
	id, err := uuid.Parse(s.ID)
	if err != nil {
		return Saga{}, fmt.Errorf("saga id: %w", err)
	}
	if len(def.Steps) > 0 && len(s.Steps) != len(def.Steps) {
		return Saga{}, fmt.Errorf("saga %s does not fit its definition %s", s.ID, def.Name)
	}
	v := Saga{
		ID: id, Definition: def.Name, DefinitionVersion: def.Version, Version: version, Status: s.Status,
		Input: s.Input, Error: s.Failure(), CancelRequested: s.CancelRequested, Overdue: s.Overdue, PausedAt: orNil(s.PausedAt), StaleReplies: stale, RestartOf: s.RestartOf, Key: s.Key, Labels: s.Labels,
		WaitsFor: s.WaitsFor(), StartAt: orNil(s.StartAt),
		CreatedAt: created, UpdatedAt: updated, Steps: make([]Step, len(def.Steps)),
	}
	if s.Lock != nil {
		v.Lock = &Lock{Lock: *s.Lock}
	}
	if len(def.Steps) > 0 {
		v.Actions = saga.Allowed(def, s)
	}
	if s.Status.Ended() {
		v.EndedAt = &updated
	}
	if len(def.Steps) > 0 && (s.Status == saga.Stuck || s.Status == saga.Abandoned) {
		v.Errors = s.Troubles(def)
	}
	for i, step := range def.Steps { // none if the definition cannot be read
		st := s.Steps[i]
		v.Steps[i] = Step{
			Name: step.Name, Participant: step.Participant, Kind: string(step.Kind),
			Status: st.Shown(), Result: st.Result, Error: st.Error,
		}
		if st.Status == saga.StepStuck {
			v.Steps[i].StuckPhase, v.Steps[i].Resolutions = st.Phase, resolutions(def, s, i)
		}
		if st.Phase == saga.Compensation {
			v.Steps[i].CompensationAttempt = st.Attempt
		} else {
			v.Steps[i].Attempt = st.Attempt
		}
		if !st.DueAt.IsZero() {
			v.Steps[i].DueAt = &s.Steps[i].DueAt
		}
	}
	return v, nil
}

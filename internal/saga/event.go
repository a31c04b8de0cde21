package saga

import (
	"encoding/json"
	"time"
)

// Outcome is what a participant says of a command.
type Outcome string

// The outcomes of a command. A participant never says OutcomeUnknown: it is
// what a compensation is told of an action that was given up.
const (
	Succeeded      Outcome = "succeeded"
	Failed         Outcome = "failed"      // definitive: the action had no effect
	Retry          Outcome = "retry"       // transient: the effect may or may not be there
	InProgress     Outcome = "in_progress" // still at work: wait longer
	OutcomeUnknown Outcome = "unknown"
)

// Event is what may happen to a saga: a [Reply], an [Undeliverable], a [Tick], a [Granted], or an operator's
// request: [Cancel], [TryNow], [Resolve], [Abandon], [Pause], [Resume] or [Reschedule].
type Event interface{ event() }

// Reply is a participant's answer. Any reply to any command ever sent may come
// at any time, any number of times.
type Reply struct {
	Step       string
	Phase      Phase
	Generation int
	Attempt    int // 0: the current one
	Outcome    Outcome
	Result     json.RawMessage
	Failure    *Failure
	RetryAfter time.Duration // Retry: wait at least this long
	Extend     time.Duration // InProgress: wait this long from now; 0: the step's timeout
}

// Undeliverable says that the command of an attempt will never reach its
// participant: the broker cannot take it. Participants cannot say so.
type Undeliverable struct {
	Step       string
	Phase      Phase
	Generation int
	Attempt    int
	Reason     string
}

// Publication says whether the saga's latest commands have left the outbox.
type Publication int

// What a [Tick] knows of the outbox. A command that has not left yet cannot
// have been answered, so its timeout spends no attempt.
const (
	Published     Publication = iota
	Withheld                  // still in the outbox: the relay or NATS is away
	JustPublished             // it was withheld when last looked at: wait afresh
)

// Tick says that time has passed: whatever is due is dealt with. A tick that
// comes early or twice changes nothing, so a timer need not be exact.
type Tick struct{ Publication Publication }

// Granted says that the saga holds its lock from now on.
type Granted struct{}

// Cancel asks that the saga be undone.
type Cancel struct{ Reason, Actor string }

// TryNow asks that what waits for its next attempt, or is stuck, be tried at
// once. A stuck operation gets a new budget of attempts.
type TryNow struct {
	Step          string          // empty: every step that can be tried
	Payload       json.RawMessage // nil: the usual one. Only for one step, whose current effect was never sent
	Reason, Actor string
}

// Resolve says how a stuck operation has ended. A participant that says
// otherwise later makes the saga stuck again.
type Resolve struct {
	Step          string
	Phase         Phase // which of the step's operations is meant
	Outcome       Resolution
	Result        json.RawMessage // of an action that succeeded
	Reason, Actor string
}

// Resolution is what an operator may say of a stuck operation.
type Resolution string

// The resolutions. See [Resolutions] for which of them are possible when.
const (
	ResolveSucceeded Resolution = "succeeded" // it has happened
	ResolveFailed    Resolution = "failed"    // it has not happened and will not
	ResolveSkipped   Resolution = "skipped"   // go on without it, whatever has happened
)

// Abandon ends the saga as it stands. What is in flight is given up.
type Abandon struct{ Reason, Actor string }

// Pause asks that no command be issued until [Resume]. Replies still count, and
// time does not: neither step timeouts nor the saga's deadline run.
type Pause struct{ Reason, Actor string }

// Resume ends a pause.
type Resume struct{ Reason, Actor string }

func (Undeliverable) event() {}
func (Reply) event()         {}
func (Tick) event()          {}
func (Granted) event()       {}
func (Cancel) event()        {}
func (TryNow) event()        {}
func (Resolve) event()       {}
func (Abandon) event()       {}
func (Pause) event()         {}
func (Resume) event()        {}

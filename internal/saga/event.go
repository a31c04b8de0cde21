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

// Event is what may happen to a saga: a [Reply], a [Tick] or a [Cancel].
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

// Cancel asks that the saga be undone.
type Cancel struct{ Reason, Actor string }

func (Reply) event()  {}
func (Tick) event()   {}
func (Cancel) event() {}

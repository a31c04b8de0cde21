package wire

import (
	"encoding/json"
	"time"
)

// Event tells whoever listens one fact of a saga's history. It is sent once
// it is committed, at least once, and in the order of a saga's history.
type Event struct {
	Saga              string    `json:"saga_id"`
	Definition        string    `json:"definition"`
	DefinitionVersion int       `json:"definition_version"`
	Version           int64     `json:"version"` // of the saga
	Type              string    `json:"type"`    // as in the saga's history
	Status            string    `json:"status"`  // of the saga, after this fact and those decided with it
	At                time.Time `json:"at"`
	Step              string    `json:"step,omitempty"` // empty: the saga itself
	Phase             Phase     `json:"phase,omitempty"`
	Generation        int       `json:"generation,omitempty"`
	Attempt           int       `json:"attempt,omitempty"`
	Error             *Problem  `json:"error,omitempty"` // what failed; of a saga that was undone or is stuck, why
	Reason            string    `json:"reason,omitempty"`
	Actor             string    `json:"actor,omitempty"`
	Trace             Trace     `json:"-"`
}

// Problem says what went wrong, and in which step.
type Problem struct {
	Code    string `json:"code"`
	Message string `json:"message,omitempty"`
	Step    string `json:"step,omitempty"`
}

// AppendHeaders writes the headers in the form in which the outbox keeps them,
// see [Command.AppendHeaders].
func (e Event) AppendHeaders(b []byte) []byte {
	b = append(b, `{"ce-type":"`+TypeEvent+`","ce-source":"`+Source+`","content-type":"`+ContentType+`","ce-subject":"`...)
	b = append(b, e.Saga...)
	b = append(b, '"')
	return append(e.Trace.appendTo(b), '}')
}

// Payload is the body of the message.
func (e Event) Payload() []byte {
	b, err := json.Marshal(e)
	if err != nil { // cannot be: strings, numbers and times
		return []byte("{}")
	}
	return b
}

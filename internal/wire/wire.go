// Package wire is the message format between Skald, its participants and those
// who listen to it: CloudEvents 1.0 in binary mode over NATS headers
// (docs/protocol.md, asyncapi.yaml). It encodes and decodes; it sends nothing.
//
// Header names are lower case, because NATS headers are case-sensitive; the
// one exception is Nats-Msg-Id, which is JetStream's own.
package wire

import (
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"
)

// The headers of commands, replies and events.
const (
	HeaderMsgID         = "Nats-Msg-Id"
	HeaderSpecVersion   = "ce-specversion"
	HeaderID            = "ce-id"
	HeaderSource        = "ce-source"
	HeaderType          = "ce-type"
	HeaderTime          = "ce-time"
	HeaderSubject       = "ce-subject"
	HeaderEffectID      = "ce-effectid"
	HeaderCompensates   = "ce-compensates"
	HeaderActionOutcome = "ce-actionoutcome"
	HeaderEffectTime    = "ce-effecttime"
	HeaderAttempt       = "ce-attempt"
	HeaderReplyTo       = "ce-replyto"
	HeaderNotAfter      = "ce-notafter"
	HeaderOutcome       = "ce-outcome"
	HeaderTraceparent   = "traceparent"
	HeaderTracestate    = "tracestate"
	HeaderContentType   = "content-type"
)

// The values that are always the same.
const (
	SpecVersion = "1.0"
	TypeCommand = "skald.command.v1"
	TypeReply   = "skald.reply.v1"
	TypeEvent   = "skald.event.v1"

	TypeUndeliverable = "skald.undeliverable.v1" // what a relay says of a command that no stream will take
	Source            = "/skald"
	ContentType       = "application/json"
)

// Phase says which of a step's two operations is meant.
type Phase string

// The phases.
const (
	Action       Phase = "action"
	Compensation Phase = "compensation"
)

// Outcome is what a participant says of a command.
type Outcome string

// The outcomes. Unknown is never said by a participant: it is what a
// compensation is told of an action that was given up.
const (
	Succeeded  Outcome = "succeeded"
	Failed     Outcome = "failed"
	Retry      Outcome = "retry"
	InProgress Outcome = "in_progress"
	Unknown    Outcome = "unknown"
)

// EffectID names one effect: what a participant does at most once, however
// often it is asked. It is the same for all attempts.
type EffectID struct {
	Saga       string // a UUID
	Step       string
	Phase      Phase
	Generation int // from 1; another generation is another effect
}

// String writes <saga>/<step>/<phase>, with ~n for later generations.
func (e EffectID) String() string {
	return string(e.appendTo(make([]byte, 0, len(e.Saga)+len(e.Step)+len(e.Phase)+6)))
}

func (e EffectID) appendTo(b []byte) []byte {
	b = append(append(b, e.Saga...), '/')
	b = append(append(b, e.Step...), '/')
	b = append(b, e.Phase...)
	if e.Generation > 1 {
		b = strconv.AppendInt(append(b, '~'), int64(e.Generation), 10)
	}
	return b
}

// ParseEffectID reads what String writes, and nothing else.
func ParseEffectID(s string) (EffectID, error) {
	bad := func(why string) (EffectID, error) { return EffectID{}, fmt.Errorf("effect id: %s", why) }
	parts := strings.Split(s, "/")
	if len(parts) != 3 {
		return bad("want <saga>/<step>/<phase>")
	}
	id, err := uuid.Parse(parts[0])
	if err != nil || id.String() != parts[0] {
		return bad("the saga is not a UUID in its usual form")
	}
	if !validName(parts[1]) {
		return bad("the step is not a name")
	}
	phase, generation, later := strings.Cut(parts[2], "~")
	e := EffectID{Saga: parts[0], Step: parts[1], Phase: Phase(phase), Generation: 1}
	if e.Phase != Action && e.Phase != Compensation {
		return bad("the phase is neither action nor compensation")
	}
	if later {
		n, err := strconv.Atoi(generation)
		if err != nil || n < 2 || n > 1_000_000 || strconv.Itoa(n) != generation {
			return bad("the generation is not a number from 2")
		}
		e.Generation = n
	}
	return e, nil
}

func validName(s string) bool {
	return s != "" && len(s) <= 64 && strings.Trim(s, "abcdefghijklmnopqrstuvwxyz0123456789-") == ""
}

// CommandSubject is where a participant's commands are published.
func CommandSubject(prefix, participant, action string) string {
	return prefix + ".cmd." + participant + "." + action
}

// ReplySubject is where replies go; participants take it from the command.
func ReplySubject(prefix string, partition int) string {
	return prefix + ".reply." + strconv.Itoa(partition)
}

// EventSubject is where the events of a definition's sagas are published.
func EventSubject(prefix, definition, eventType string) string {
	return prefix + ".evt." + definition + "." + eventType
}

// CommandsStream is the name of the stream that holds commands.
func CommandsStream(prefix string) string { return streamPrefix(prefix) + "_COMMANDS" }

// RepliesStream is the name of the stream that holds replies.
func RepliesStream(prefix string) string { return streamPrefix(prefix) + "_REPLIES" }

// EventsStream is the name of the stream that holds lifecycle events.
func EventsStream(prefix string) string { return streamPrefix(prefix) + "_EVENTS" }

func streamPrefix(prefix string) string {
	return strings.ReplaceAll(strings.ToUpper(prefix), ".", "_")
}

// Failure says why something did not work.
type Failure struct {
	Code    string          `json:"code"`
	Message string          `json:"message"`
	Details json.RawMessage `json:"details,omitempty"`
}

var (
	errNoHeader  = errors.New("header is missing")
	errTwoValues = errors.New("header is given more than once")
)

// once refuses a message that says something twice: which one is meant would
// be a guess.
func once(h map[string][]string) error {
	for _, name := range [...]string{HeaderMsgID, HeaderSubject, HeaderEffectID, HeaderCompensates, HeaderActionOutcome,
		HeaderEffectTime, HeaderAttempt, HeaderReplyTo, HeaderNotAfter, HeaderOutcome, HeaderTime} {
		if len(h[name]) > 1 {
			return fmt.Errorf("%s: %w", name, errTwoValues)
		}
	}
	return nil
}

// get reads one header; absent is empty.
func get(h map[string][]string, name string) string {
	if v := h[name]; len(v) > 0 {
		return v[0]
	}
	return ""
}

func getEffectID(h map[string][]string) (EffectID, error) {
	v := get(h, HeaderEffectID)
	if v == "" {
		return EffectID{}, fmt.Errorf("%s: %w", HeaderEffectID, errNoHeader)
	}
	e, err := ParseEffectID(v)
	if err != nil {
		return EffectID{}, fmt.Errorf("%s: %w", HeaderEffectID, err)
	}
	return e, nil
}

func getTime(h map[string][]string, name string) (time.Time, error) {
	v := get(h, name)
	if v == "" {
		return time.Time{}, nil
	}
	t, err := time.Parse(time.RFC3339Nano, v)
	if err != nil {
		return time.Time{}, fmt.Errorf("%s: not an RFC 3339 time", name)
	}
	return t, nil
}

func getAttempt(h map[string][]string) (int, error) {
	v := get(h, HeaderAttempt)
	if v == "" {
		return 0, nil
	}
	n, err := strconv.Atoi(v)
	if err != nil || n < 1 || n > 1_000_000_000 {
		return 0, fmt.Errorf("%s: not a positive number", HeaderAttempt)
	}
	return n, nil
}

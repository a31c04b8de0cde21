package wire

import (
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"time"
	"unicode/utf8"
)

// Limits of what a reply may ask for and carry.
const (
	MaxRetryAfter = 24 * time.Hour // a longer wait is shortened to this
	MaxExtend     = 24 * time.Hour
	MaxBody       = 512 << 10 // bytes; a larger result belongs elsewhere, with a reference in the reply
	MaxDepth      = 100       // of nested arrays and objects in a body
)

// Reply is a participant's answer to a command.
type Reply struct {
	MsgID      string
	EffectID   EffectID
	Attempt    int // 0: not said
	Outcome    Outcome
	Body       json.RawMessage // the result, when Succeeded; never empty then
	Failure    *Failure        // when Failed or Retry; nil if nothing was said
	RetryAfter time.Duration   // when Retry
	Extend     time.Duration   // when InProgress

	// Undeliverable says that this is no participant's answer, but a relay's
	// word that the command cannot be published. There is no outcome then.
	Undeliverable bool
}

// replyBody is the body of every reply but a successful one.
type replyBody struct {
	Code         string          `json:"code,omitempty"`
	Message      string          `json:"message,omitempty"`
	Details      json.RawMessage `json:"details,omitempty"`
	RetryAfterMS int64           `json:"retry_after_ms,omitempty"`
	ExtendMS     int64           `json:"extend_ms,omitempty"`
}

// Header is the reply's NATS header.
func (r Reply) Header() map[string][]string {
	h := map[string][]string{
		HeaderSpecVersion: {SpecVersion},
		HeaderType:        {TypeReply},
		HeaderSource:      {"/participant"},
		HeaderSubject:     {r.EffectID.Saga},
		HeaderEffectID:    {r.EffectID.String()},
		HeaderOutcome:     {string(r.Outcome)},
		HeaderContentType: {ContentType},
	}
	if r.MsgID != "" {
		h[HeaderMsgID], h[HeaderID] = []string{r.MsgID}, []string{r.MsgID}
	}
	if r.Attempt > 0 {
		h[HeaderAttempt] = []string{strconv.Itoa(r.Attempt)}
	}
	return h
}

// Payload is the reply's body.
func (r Reply) Payload() []byte {
	if r.Outcome == Succeeded {
		if len(r.Body) == 0 {
			return []byte("null")
		}
		return r.Body
	}
	body := replyBody{RetryAfterMS: r.RetryAfter.Milliseconds(), ExtendMS: r.Extend.Milliseconds()}
	if f := r.Failure; f != nil {
		body.Code, body.Message, body.Details = f.Code, f.Message, f.Details
	}
	b, err := json.Marshal(body)
	if err != nil { // only if Details is not JSON
		body.Details = nil
		b, _ = json.Marshal(body)
	}
	return b
}

// DecodeReply reads a reply, or a relay's word that a command cannot be
// published. Required are ce-effectid and ce-outcome; all else
// is optional. An error means a breach of protocol: the reply must become a
// dead letter, never a guess.
func DecodeReply(h map[string][]string, body []byte) (Reply, error) {
	r := Reply{MsgID: get(h, HeaderMsgID), Outcome: Outcome(get(h, HeaderOutcome))}
	err := once(h)
	if err != nil {
		return Reply{}, err
	}
	if r.EffectID, err = getEffectID(h); err != nil {
		return Reply{}, err
	}
	if r.Attempt, err = getAttempt(h); err != nil {
		return Reply{}, err
	}
	switch {
	case len(body) > MaxBody:
		return Reply{}, fmt.Errorf("body: more than %d bytes", MaxBody)
	case !utf8.Valid(body):
		return Reply{}, errors.New("body: not UTF-8")
	case len(body) > 0 && !json.Valid(body):
		return Reply{}, errors.New("body: not JSON")
	case depth(body) > MaxDepth:
		return Reply{}, fmt.Errorf("body: nested deeper than %d", MaxDepth)
	}
	if r.Undeliverable = get(h, HeaderType) == TypeUndeliverable; r.Undeliverable {
		if r.Outcome != "" {
			return Reply{}, fmt.Errorf("%s: a relay knows none", HeaderOutcome)
		}
		return r, r.decodeBody(body)
	}
	switch r.Outcome {
	case Succeeded:
		r.Body = body
		if len(body) == 0 {
			r.Body = json.RawMessage("null")
		}
		return r, nil
	case Failed, Retry, InProgress:
		if err := r.decodeBody(body); err != nil {
			return Reply{}, err
		}
		return r, nil
	case "":
		return Reply{}, fmt.Errorf("%s: %w", HeaderOutcome, errNoHeader)
	}
	return Reply{}, fmt.Errorf("%s: not an outcome", HeaderOutcome)
}

func (r *Reply) decodeBody(body []byte) error {
	if len(body) == 0 {
		return nil
	}
	var b replyBody
	if err := json.Unmarshal(body, &b); err != nil {
		return errors.New("body: want an object with code, message, details, retry_after_ms or extend_ms")
	}
	if b.RetryAfterMS < 0 || b.ExtendMS < 0 {
		return errors.New("body: retry_after_ms and extend_ms must not be negative")
	}
	r.RetryAfter = clampMS(b.RetryAfterMS, MaxRetryAfter)
	r.Extend = clampMS(b.ExtendMS, MaxExtend)
	if b.Code != "" || b.Message != "" || b.Details != nil {
		r.Failure = &Failure{Code: b.Code, Message: b.Message, Details: b.Details}
	}
	return nil
}

func clampMS(ms int64, most time.Duration) time.Duration {
	return time.Duration(min(ms, most.Milliseconds())) * time.Millisecond
}

// depth is how deep arrays and objects are nested in valid JSON.
func depth(body []byte) int {
	var at, deepest int
	var inString, escaped bool
	for _, b := range body {
		switch {
		case escaped:
			escaped = false
		case inString:
			escaped, inString = b == '\\', b != '"'
		case b == '"':
			inString = true
		case b == '[' || b == '{':
			at++
			deepest = max(deepest, at)
		case b == ']' || b == '}':
			at--
		}
	}
	return deepest
}

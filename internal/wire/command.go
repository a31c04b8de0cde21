package wire

import (
	"errors"
	"fmt"
	"strconv"
	"time"
	"unicode/utf8"
)

// Command asks a participant for one attempt at one effect.
type Command struct {
	MsgID         string // of this message; another attempt is another message
	Subject       string // NATS subject it came on
	EffectID      EffectID
	Saga          string
	Attempt       int // from 1
	ReplyTo       string
	EffectTime    time.Time // first issue of the effect id
	NotAfter      time.Time // zero: none. An attempt should not be started later
	Compensates   *EffectID // compensations only: the action to undo
	ActionOutcome Outcome   // compensations only: Succeeded or Unknown
	Time          time.Time // when the message was written
	Trace         Trace
	Payload       []byte
}

// AppendHeaders writes the headers as a JSON object of strings, the form in
// which the outbox keeps them. What the relay knows from the row's own columns
// is left out: message id, time and the CloudEvents version.
func (c Command) AppendHeaders(b []byte) []byte {
	b = append(b, `{"ce-type":"`+TypeCommand+`","ce-source":"`+Source+`","content-type":"`+ContentType+`","ce-subject":"`...)
	b = append(b, c.Saga...)
	b = append(b, `","ce-effectid":"`...)
	b = c.EffectID.appendTo(b)
	b = append(b, `","ce-attempt":"`...)
	b = strconv.AppendInt(b, int64(c.Attempt), 10)
	b = append(b, `","ce-replyto":"`...)
	b = append(b, c.ReplyTo...)
	b = append(b, `","ce-effecttime":"`...)
	b = c.EffectTime.AppendFormat(b, time.RFC3339Nano)
	if !c.NotAfter.IsZero() {
		b = append(b, `","ce-notafter":"`...)
		b = c.NotAfter.AppendFormat(b, time.RFC3339Nano)
	}
	if c.Compensates != nil {
		b = append(b, `","ce-compensates":"`...)
		b = c.Compensates.appendTo(b)
		b = append(b, `","ce-actionoutcome":"`...)
		b = append(b, c.ActionOutcome...)
	}
	b = append(b, '"')
	return append(c.Trace.appendTo(b), '}')
}

// DecodeCommand reads a command from a message. An error means that it cannot
// be understood, now or later.
func DecodeCommand(subject string, h map[string][]string, payload []byte) (Command, error) {
	c := Command{
		MsgID: get(h, HeaderMsgID), Subject: subject, Saga: get(h, HeaderSubject), ReplyTo: get(h, HeaderReplyTo),
		ActionOutcome: Outcome(get(h, HeaderActionOutcome)),
		Trace:         Trace{Parent: get(h, HeaderTraceparent), State: get(h, HeaderTracestate)}, Payload: payload,
	}
	err := once(h)
	switch {
	case err != nil:
		return Command{}, err
	case c.ReplyTo == "":
		return Command{}, fmt.Errorf("%s: %w", HeaderReplyTo, errNoHeader)
	case !utf8.Valid(payload):
		return Command{}, errors.New("payload: not UTF-8")
	}
	if c.EffectID, err = getEffectID(h); err != nil {
		return Command{}, err
	}
	if c.Saga == "" {
		c.Saga = c.EffectID.Saga
	}
	if err := c.decodeCompensation(h); err != nil {
		return Command{}, err
	}
	if c.Attempt, err = getAttempt(h); err != nil {
		return Command{}, err
	}
	if c.EffectTime, err = getTime(h, HeaderEffectTime); err != nil {
		return Command{}, err
	}
	if c.NotAfter, err = getTime(h, HeaderNotAfter); err != nil {
		return Command{}, err
	}
	if c.Time, err = getTime(h, HeaderTime); err != nil {
		return Command{}, err
	}
	return c, nil
}

// decodeCompensation reads the headers that compensations have, and no others.
func (c *Command) decodeCompensation(h map[string][]string) error {
	v := get(h, HeaderCompensates)
	switch {
	case c.EffectID.Phase == Action && v == "" && c.ActionOutcome == "":
		return nil
	case c.EffectID.Phase == Action:
		return fmt.Errorf("%s and %s: belong on compensations only", HeaderCompensates, HeaderActionOutcome)
	case v == "":
		return fmt.Errorf("%s: %w", HeaderCompensates, errNoHeader)
	case c.ActionOutcome != Succeeded && c.ActionOutcome != Unknown:
		return fmt.Errorf("%s: neither %s nor %s", HeaderActionOutcome, Succeeded, Unknown)
	}
	e, err := ParseEffectID(v)
	if err != nil {
		return fmt.Errorf("%s: %w", HeaderCompensates, err)
	}
	if e.Phase != Action {
		return fmt.Errorf("%s: is not an action", HeaderCompensates)
	}
	c.Compensates = &e
	return nil
}

package wire_test

import (
	"encoding/json"
	"maps"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/skald-saga/skald/internal/wire"
)

var t0 = time.Date(2026, 11, 23, 12, 0, 0, 123456000, time.UTC)

// received is a command's header as it arrives: what the outbox keeps, and
// what the relay adds from the row's own columns.
func received(t testing.TB, c wire.Command) map[string][]string {
	t.Helper()
	h := delivered(t, c.AppendHeaders(nil))
	h[wire.HeaderMsgID], h[wire.HeaderID] = []string{c.MsgID}, []string{c.MsgID}
	h[wire.HeaderTime] = []string{c.Time.Format(time.RFC3339Nano)}
	return h
}

// delivered is the header of a message whose own part is stored as text.
func delivered(t testing.TB, text []byte) map[string][]string {
	t.Helper()
	var stored map[string]string
	if json.Unmarshal(text, &stored) != nil {
		t.Fatalf("headers are not a JSON object of strings: %s", text)
	}
	h := map[string][]string{
		wire.HeaderMsgID: {"m"}, wire.HeaderID: {"m"}, wire.HeaderSpecVersion: {wire.SpecVersion}, wire.HeaderTime: {"t"},
	}
	for k, v := range stored {
		h[k] = []string{v}
	}
	return h
}

func actionCommand() wire.Command {
	return wire.Command{
		MsgID: "019ab8b1-7c7c-7d3e-9d9e-0d6a3a1a1c02", Subject: "skald.cmd.inventory.reserve", EffectID: effect(wire.Action, 1),
		Saga: sagaID, Attempt: 2, ReplyTo: "skald.reply.0", EffectTime: t0, NotAfter: t0.Add(10 * time.Second),
		Time: t0.Add(5 * time.Second), Payload: []byte(`{"items":[]}`),
	}
}

func compensationCommand() wire.Command {
	c := actionCommand()
	undone := effect(wire.Action, 3)
	c.EffectID, c.NotAfter, c.Compensates, c.ActionOutcome = effect(wire.Compensation, 1), time.Time{}, &undone, wire.Unknown
	return c
}

func TestAParticipantReadsTheCommandThatWasWritten(t *testing.T) {
	t.Parallel()
	traced := actionCommand()
	traced.Trace = wire.Trace{Parent: "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", State: "a=\"1\",b=\\2\x01é"}
	later := actionCommand()
	later.EffectID, later.NotAfter = effect(wire.Action, 2), time.Time{}
	known := compensationCommand()
	known.ActionOutcome = wire.Succeeded
	for name, c := range map[string]wire.Command{
		"an action":                                actionCommand(),
		"an action of a later generation":          later,
		"a compensation of an unknown action":      compensationCommand(),
		"a compensation of an action that is done": known,
		"with a trace":                             traced,
	} {
		got, err := wire.DecodeCommand(c.Subject, received(t, c), c.Payload)
		if err != nil {
			t.Errorf("%s: %v", name, err)
		} else if diff := cmp.Diff(c, got); diff != "" {
			t.Errorf("%s: -written +read:\n%s", name, diff)
		}
	}
}

func TestTheSagaOfACommandIsThatOfItsEffect(t *testing.T) {
	t.Parallel()
	c := actionCommand()
	h := received(t, c)
	delete(h, wire.HeaderSubject)
	if got, err := wire.DecodeCommand(c.Subject, h, c.Payload); err != nil || got.Saga != sagaID {
		t.Errorf("saga %q, %v, want %q", got.Saga, err, sagaID)
	}
}

func TestACommandThatCannotBeUnderstoodIsRefused(t *testing.T) {
	t.Parallel()
	action, compensation := actionCommand(), compensationCommand()
	for name, c := range map[string]struct {
		of     wire.Command
		header string
		values []string // nil: the header is missing
		want   string
	}{
		"no effect id":                           {action, "ce-effectid", nil, "ce-effectid: header is missing"},
		"a bad effect id":                        {action, "ce-effectid", []string{"x"}, "ce-effectid"},
		"two effect ids":                         {action, "ce-effectid", []string{action.EffectID.String(), action.EffectID.String()}, "more than once"},
		"no subject to reply on":                 {action, "ce-replyto", nil, "ce-replyto: header is missing"},
		"two subjects to reply on":               {action, "ce-replyto", []string{"a", "b"}, "more than once"},
		"attempt 0":                              {action, "ce-attempt", []string{"0"}, "ce-attempt"},
		"a negative attempt":                     {action, "ce-attempt", []string{"-1"}, "ce-attempt"},
		"an attempt that is no number":           {action, "ce-attempt", []string{"first"}, "ce-attempt"},
		"an effect time that is none":            {action, "ce-effecttime", []string{"yesterday"}, "ce-effecttime"},
		"a limit that is no time":                {action, "ce-notafter", []string{"1764000000"}, "ce-notafter"},
		"a time that is none":                    {action, "ce-time", []string{"now"}, "ce-time"},
		"an action that compensates":             {action, "ce-compensates", []string{effect(wire.Action, 1).String()}, "compensations only"},
		"an action with an action's outcome":     {action, "ce-actionoutcome", []string{"unknown"}, "compensations only"},
		"a compensation of nothing":              {compensation, "ce-compensates", nil, "ce-compensates: header is missing"},
		"a compensation of no effect":            {compensation, "ce-compensates", []string{"x"}, "ce-compensates"},
		"a compensation of a compensation":       {compensation, "ce-compensates", []string{effect(wire.Compensation, 1).String()}, "not an action"},
		"a compensation that is told nothing":    {compensation, "ce-actionoutcome", nil, "ce-actionoutcome"},
		"a compensation of a failed action":      {compensation, "ce-actionoutcome", []string{"failed"}, "ce-actionoutcome"},
		"a compensation with the outcome in big": {compensation, "ce-actionoutcome", []string{"Succeeded"}, "ce-actionoutcome"},
	} {
		h := maps.Clone(received(t, c.of))
		delete(h, c.header)
		if c.values != nil {
			h[c.header] = c.values
		}
		got, err := wire.DecodeCommand(c.of.Subject, h, c.of.Payload)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %+v, %v, want an error with %q", name, got, err, c.want)
		}
	}
	if _, err := wire.DecodeCommand(action.Subject, received(t, action), []byte("\xff")); err == nil {
		t.Error("a payload that is not UTF-8 was taken")
	}
}

// plain is what Skald's own subjects and ids are made of.
var plain = regexp.MustCompile(`^[a-zA-Z0-9.-]*$`)

func FuzzDecodeCommand(f *testing.F) {
	for _, c := range []wire.Command{actionCommand(), compensationCommand()} {
		f.Add(c.AppendHeaders(nil), c.Payload)
	}
	f.Add([]byte(`{"ce-effectid":"","ce-replyto":"x"}`), []byte(nil))
	f.Fuzz(func(t *testing.T, headers, payload []byte) {
		var stored map[string]string
		if json.Unmarshal(headers, &stored) != nil {
			return // no headers
		}
		h := map[string][]string{}
		for k, v := range stored {
			h[k] = []string{v}
		}
		c, err := wire.DecodeCommand("skald.cmd.a.b", h, payload)
		if err != nil || !plain.MatchString(c.ReplyTo+c.Saga+c.MsgID) {
			return
		}
		again, err := wire.DecodeCommand(c.Subject, received(t, c), payload)
		if err != nil {
			t.Fatalf("%+v was written but cannot be read: %v", c, err)
		}
		if diff := cmp.Diff(c, again); diff != "" {
			t.Errorf("-read +read again:\n%s", diff)
		}
	})
}

package wire_test

import (
	"encoding/json"
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/skald-saga/skald/internal/wire"
)

func TestSkaldReadsTheReplyThatWasWritten(t *testing.T) {
	t.Parallel()
	for name, r := range map[string]wire.Reply{
		"a success with a result":        {Outcome: wire.Succeeded, Attempt: 3, MsgID: "m", Body: json.RawMessage(`{"id":"r-17"}`)},
		"a success without a word":       {Outcome: wire.Succeeded, Body: json.RawMessage(`null`)},
		"a refusal":                      {Outcome: wire.Failed, Failure: &wire.Failure{Code: "sold_out", Message: "0 left", Details: json.RawMessage(`{"left":0}`)}},
		"a refusal without a word":       {Outcome: wire.Failed},
		"a transient error with a wish":  {Outcome: wire.Retry, Failure: &wire.Failure{Code: "busy"}, RetryAfter: 1500 * time.Millisecond},
		"a transient error":              {Outcome: wire.Retry},
		"a participant at work":          {Outcome: wire.InProgress, Attempt: 1},
		"a participant at work for long": {Outcome: wire.InProgress, Extend: time.Minute},
	} {
		r.EffectID = effect(wire.Action, 2)
		got, err := wire.DecodeReply(r.Header(), r.Payload())
		if err != nil {
			t.Errorf("%s: %v", name, err)
		} else if diff := cmp.Diff(r, got); diff != "" {
			t.Errorf("%s: -written +read:\n%s", name, diff)
		}
	}
}

func TestASuccessWithoutABodyIsNull(t *testing.T) {
	t.Parallel()
	r := wire.Reply{EffectID: effect(wire.Action, 1), Outcome: wire.Succeeded}
	if string(r.Payload()) != "null" {
		t.Errorf("payload %q, want null", r.Payload())
	}
	got, err := wire.DecodeReply(r.Header(), nil)
	if err != nil || string(got.Body) != "null" {
		t.Errorf("body %q, %v, want null", got.Body, err)
	}
}

func TestDetailsThatAreNotJSONDoNotCostTheReply(t *testing.T) {
	t.Parallel()
	r := wire.Reply{EffectID: effect(wire.Action, 1), Outcome: wire.Failed, Failure: &wire.Failure{Code: "x", Details: json.RawMessage(`{`)}}
	got, err := wire.DecodeReply(r.Header(), r.Payload())
	if err != nil || got.Failure == nil || got.Failure.Code != "x" {
		t.Errorf("got %+v, %v", got, err)
	}
}

// Two headers make a reply: whoever has a NATS client can answer.
func TestTwoHeadersMakeAReply(t *testing.T) {
	t.Parallel()
	for _, outcome := range []wire.Outcome{wire.Succeeded, wire.Failed, wire.Retry, wire.InProgress} {
		h := map[string][]string{"ce-effectid": {effect(wire.Action, 1).String()}, "ce-outcome": {string(outcome)}}
		got, err := wire.DecodeReply(h, nil)
		if err != nil || got.Outcome != outcome || got.EffectID != effect(wire.Action, 1) || got.Attempt != 0 {
			t.Errorf("%s: got %+v, %v", outcome, got, err)
		}
	}
}

func TestAReplyThatCannotBeUnderstoodIsRefused(t *testing.T) {
	t.Parallel()
	id := effect(wire.Action, 1).String()
	for name, c := range map[string]struct {
		header string
		values []string // nil: the header is missing
		want   string
	}{
		"no effect id":                       {"ce-effectid", nil, "ce-effectid: header is missing"},
		"an empty effect id":                 {"ce-effectid", []string{""}, "ce-effectid: header is missing"},
		"a bad effect id":                    {"ce-effectid", []string{"order-1"}, "ce-effectid"},
		"two effect ids":                     {"ce-effectid", []string{id, effect(wire.Action, 2).String()}, "ce-effectid: header is given more than once"},
		"the same effect id twice":           {"ce-effectid", []string{id, id}, "ce-effectid: header is given more than once"},
		"no outcome":                         {"ce-outcome", nil, "ce-outcome: header is missing"},
		"two outcomes":                       {"ce-outcome", []string{"succeeded", "failed"}, "ce-outcome: header is given more than once"},
		"an unknown outcome":                 {"ce-outcome", []string{"ok"}, "ce-outcome: not an outcome"},
		"an outcome in capitals":             {"ce-outcome", []string{"Succeeded"}, "ce-outcome: not an outcome"},
		"an outcome with a space":            {"ce-outcome", []string{"succeeded "}, "ce-outcome: not an outcome"},
		"the outcome no participant gives":   {"ce-outcome", []string{"unknown"}, "ce-outcome: not an outcome"},
		"attempt 0":                          {"ce-attempt", []string{"0"}, "ce-attempt: not a positive number"},
		"a negative attempt":                 {"ce-attempt", []string{"-1"}, "ce-attempt: not a positive number"},
		"an attempt that is no number":       {"ce-attempt", []string{"one"}, "ce-attempt: not a positive number"},
		"a fraction of an attempt":           {"ce-attempt", []string{"1.5"}, "ce-attempt: not a positive number"},
		"an attempt larger than any counter": {"ce-attempt", []string{"99999999999999999999"}, "ce-attempt: not a positive number"},
		"two attempts":                       {"ce-attempt", []string{"1", "2"}, "ce-attempt: header is given more than once"},
	} {
		h := map[string][]string{"ce-effectid": {id}, "ce-outcome": {"failed"}, "ce-attempt": {"1"}}
		delete(h, c.header)
		if c.values != nil {
			h[c.header] = c.values
		}
		if got, err := wire.DecodeReply(h, nil); err == nil || err.Error() != c.want && !strings.HasPrefix(err.Error(), c.want+":") {
			t.Errorf("%s: got %+v, %v, want the error %q", name, got, err, c.want)
		}
	}
}

// NATS headers are case-sensitive, and some clients write Ce-Outcome unasked.
func TestHeadersInAnotherCaseAreMissing(t *testing.T) {
	t.Parallel()
	h := map[string][]string{"ce-effectid": {effect(wire.Action, 1).String()}, "Ce-Outcome": {"succeeded"}}
	if got, err := wire.DecodeReply(h, nil); err == nil || !strings.Contains(err.Error(), "ce-outcome: header is missing") {
		t.Errorf("got %+v, %v", got, err)
	}
	h = map[string][]string{"CE-EffectID": {effect(wire.Action, 1).String()}, "ce-outcome": {"succeeded"}}
	if got, err := wire.DecodeReply(h, nil); err == nil || !strings.Contains(err.Error(), "ce-effectid: header is missing") {
		t.Errorf("got %+v, %v", got, err)
	}
}

func TestABodyThatCannotBeUnderstoodIsRefused(t *testing.T) {
	t.Parallel()
	every := []wire.Outcome{wire.Succeeded, wire.Failed, wire.Retry, wire.InProgress}
	for name, c := range map[string]struct {
		body     string
		outcomes []wire.Outcome
	}{
		"text that is not JSON":       {"sold out", every},
		"half an object":              {`{"code":`, every},
		"two values":                  {`{} {}`, every},
		"not UTF-8":                   {"\"\xff\"", every},
		"more than the limit":         {`"` + strings.Repeat("a", wire.MaxBody) + `"`, every},
		"white space alone":           {" ", every},
		"a list where an object goes": {`[]`, every[1:]},
		"a text where an object goes": {`"sold out"`, every[1:]},
		"a number where an object is": {`17`, every[1:]},
		"a code that is no text":      {`{"code":17}`, every[1:]},
		"a negative wish to wait":     {`{"retry_after_ms":-1}`, every[1:]},
		"a fraction of a millisecond": {`{"retry_after_ms":0.5}`, every[1:]},
		"a wish to wait in words":     {`{"retry_after_ms":"5s"}`, every[1:]},
		"a wait beyond all numbers":   {`{"retry_after_ms":9223372036854775808}`, every[1:]},
		"a negative extension":        {`{"extend_ms":-1}`, every[1:]},
	} {
		for _, outcome := range c.outcomes {
			h := wire.Reply{EffectID: effect(wire.Action, 1), Outcome: outcome}.Header()
			if got, err := wire.DecodeReply(h, []byte(c.body)); err == nil || !strings.HasPrefix(err.Error(), "body: ") {
				t.Errorf("%s (%s): got %+v, %v, want an error about the body", name, outcome, got, err)
			}
		}
	}
}

// What is nested too deep for a database, or for a reader, must not get into a
// saga's state. Brackets in texts are not nesting.
func TestABodyMayBeNestedOnlySoDeep(t *testing.T) {
	t.Parallel()
	nested := func(n int) string { return strings.Repeat(`{"a":[`, n/2) + strings.Repeat("]}", n/2) }
	h := wire.Reply{EffectID: effect(wire.Action, 1), Outcome: wire.Succeeded}.Header()
	for body, fits := range map[string]bool{
		nested(wire.MaxDepth):                      true,
		nested(wire.MaxDepth + 2):                  false,
		strings.Repeat(`[`, 1_000_000):             false,
		`["` + strings.Repeat(`[{\"`, 1000) + `"]`: true,
		`[` + strings.Repeat(`[],`, 1000) + `[]]`:  true,
	} {
		if _, err := wire.DecodeReply(h, []byte(body)); (err == nil) != fits {
			t.Errorf("%.20s…: %v", body, err)
		}
	}
}

// A participant that asks for a century does not stop a saga for one.
func TestWishesAreShortenedToADay(t *testing.T) {
	t.Parallel()
	for _, body := range []string{
		`{"retry_after_ms":86400001,"extend_ms":86400001}`,
		`{"retry_after_ms":9223372036854775807,"extend_ms":9223372036854775807}`, // would overflow a time.Duration
	} {
		h := wire.Reply{EffectID: effect(wire.Action, 1), Outcome: wire.Retry}.Header()
		got, err := wire.DecodeReply(h, []byte(body))
		if err != nil || got.RetryAfter != 24*time.Hour || got.Extend != 24*time.Hour {
			t.Errorf("%s: got %v and %v, %v", body, got.RetryAfter, got.Extend, err)
		}
	}
}

func FuzzDecodeReply(f *testing.F) {
	id := effect(wire.Action, 1).String()
	for _, outcome := range []string{"succeeded", "failed", "retry", "in_progress", "unknown", ""} {
		f.Add(id, outcome, "1", []byte(`{"code":"x","message":"y","details":[1, 2],"retry_after_ms":5,"extend_ms":7}`))
	}
	f.Add(id+"~2", "succeeded", "", []byte(nil))
	f.Fuzz(func(t *testing.T, effectID, outcome, attempt string, body []byte) {
		h := map[string][]string{"ce-effectid": {effectID}, "ce-outcome": {outcome}, "ce-attempt": {attempt}}
		r, err := wire.DecodeReply(maps.Clone(h), body)
		if err != nil {
			if diff := cmp.Diff(wire.Reply{}, r); diff != "" {
				t.Errorf("an error came with a reply:\n%s", diff)
			}
			return
		}
		if r.Outcome == wire.Succeeded && len(r.Body) == 0 {
			t.Error("a success has no result")
		}
		first := r.Payload()
		again, err := wire.DecodeReply(r.Header(), first)
		if err != nil {
			t.Fatalf("%+v was written but cannot be read: %v", r, err)
		}
		if second := again.Payload(); string(first) != string(second) {
			t.Errorf("written as %s, then as %s", first, second)
		}
	})
}

// A relay's word of a command that it cannot publish comes the same way as the
// replies, and is none: participants have no such outcome.
func TestARelaysWordIsNoOutcome(t *testing.T) {
	t.Parallel()
	r := wire.Reply{EffectID: effect(wire.Action, 1), Attempt: 2}
	h := r.Header()
	delete(h, wire.HeaderOutcome)
	h[wire.HeaderType] = []string{wire.TypeUndeliverable}
	got, err := wire.DecodeReply(h, []byte(`{"code": "undeliverable", "message": "too large"}`))
	if err != nil || !got.Undeliverable || got.Attempt != 2 || got.EffectID != r.EffectID || got.Failure.Message != "too large" {
		t.Errorf("got %+v, %v", got, err)
	}
	h[wire.HeaderOutcome] = []string{"failed"}
	if _, err := wire.DecodeReply(h, nil); err == nil {
		t.Error("a relay that knows the outcome was believed")
	}
	h[wire.HeaderType], h[wire.HeaderOutcome] = []string{wire.TypeReply}, []string{"undeliverable"}
	if _, err := wire.DecodeReply(h, nil); err == nil {
		t.Error("a participant said undeliverable and was believed")
	}
}

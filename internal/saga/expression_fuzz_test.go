package saga_test

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/skald-saga/skald/internal/saga"
)

// Whatever an expression says and is given, it makes a payload that is JSON and
// the same for every attempt, or the step fails or is stuck; and it does so
// before long.
func FuzzExpressions(f *testing.F) {
	for _, expr := range []string{
		`input`, `steps`, `steps.a`, `input.x + 1`, `input.x / input.y`, `{"to": input.to, "id": steps["a"].id}`, `[1, 2.5, null, "\u0000", true]`,
		`has(input.x) ? input.x : 7`, `input.list.map(x, input.list.map(y, [x, y]))`, `input.s.matches("(a*)*b")`, `b"bytes"`, `timestamp("2026-01-01T00:00:00Z")`,
		`duration("1h")`, `{1: 2}`, `1.0 / 0.0`, `type(1)`, `-9223372036854775808`, `18446744073709551615u`, `dyn(input)`, `input.s + input.s`, `"x" in input`,
		`[[[[[[]]]]]]`, `input.x == 1 && size(input.list) > 2`, `[1,2,3].exists(x, [1,2,3].all(y, x == y))`,
	} {
		f.Add(expr, `{"x": 1, "y": 0, "to": "bob", "s": "aaaaaaaaaaaaaaaa", "list": [1, 2, 3]}`, `{"id": "a~1"}`)
	}
	f.Add(`input.n`, `{"n": 1e999}`, `9007199254740993`)
	f.Add(`steps.a`, `"\ud800"`, `"<\u2028>"`)
	f.Fuzz(func(t *testing.T, expr, input, result string) {
		if !json.Valid([]byte(input)) || !json.Valid([]byte(result)) || len(expr)+len(input)+len(result) > 10_000 {
			return // refused before it comes here
		}
		def := withExpression(t, expr)
		if def == nil {
			return
		}
		began := time.Now()
		first, second := payloads(t, def, input, result), payloads(t, def, input, result)
		if took := time.Since(began); took > 20*time.Second {
			t.Errorf("took %s", took)
		}
		for i, payload := range first {
			if !json.Valid(payload) || !bytes.Equal(payload, second[i]) {
				t.Errorf("the payload is %q, and then %q", payload, second[i])
			}
		}
	})
}

// withExpression is a definition with expr as payload and as a part of a
// condition; nil if it is none.
func withExpression(t *testing.T, expr string) *saga.Definition {
	t.Helper()
	text, err := json.Marshal(map[string]any{"name": "d", "steps": []map[string]any{
		{"name": "a", "participant": "p", "action": "do-a", "compensation": "undo-a"},
		{"name": "b", "participant": "p", "action": "do-b", "compensation": "none", "payload": expr, "retry": map[string]int{"max_attempts": 2}},
		{"name": "c", "participant": "p", "action": "do-c", "compensation": "none", "when": "dyn(" + expr + ") == true"},
	}})
	if err != nil {
		t.Fatal(err)
	}
	def, err := saga.Parse(text)
	if err != nil {
		if strings.Contains(err.Error(), "panic") {
			t.Errorf("parse: %v", err)
		}
		return nil
	}
	return def
}

// payloads are those of all commands of a saga in which everything succeeds,
// and step b at its second attempt.
func payloads(t *testing.T, def *saga.Definition, input, result string) []json.RawMessage {
	t.Helper()
	l := beginAs(t, def, id, input)
	for range 10 {
		if len(l.latest) == 0 {
			break
		}
		r := answer(l.latest[0], saga.Succeeded)
		r.Result = json.RawMessage(result)
		l.give(r)
		if len(l.latest) > 0 && l.latest[0].Step == "b" {
			l.wake() // no reply
			l.wake()
		}
	}
	var all []json.RawMessage
	for _, c := range l.sent {
		all = append(all, c.Payload)
	}
	return all
}

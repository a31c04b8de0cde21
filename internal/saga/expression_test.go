package saga_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/skald-saga/skald/internal/saga"
)

func withPayload(expr string) string {
	quoted, err := json.Marshal(expr)
	if err != nil {
		panic(err)
	}
	return fmt.Sprintf("name: d\nsteps: [{name: a, participant: p, action: do, compensation: undo, payload: %s}]", quoted)
}

func TestAPayloadIsWhatItsExpressionGives(t *testing.T) {
	t.Parallel()
	const input = `{"items":[{"sku":"book","quantity":2}],"total":"25.00","weight":1.5,"big":9007199254740993,"note":"<ü>\u0000","none":null}`
	for expr, want := range map[string]string{
		`input`:                  `{"big":9007199254740993,"items":[{"quantity":2,"sku":"book"}],"none":null,"note":"\u003cü\u003e\u0000","total":"25.00","weight":1.5}`,
		`{"items": input.items}`: `{"items":[{"quantity":2,"sku":"book"}]}`, // 2, not 2.0
		`{"b": 1, "a": 2}`:       `{"a":2,"b":1}`,                           // sorted: every attempt is the same
		`input.big + 1`:          `9007199254740994`,                        // no digit lost
		`input.weight * 2.0`:     `3`,
		`input.none`:             `null`,
		`has(input.ship_to) ? input.ship_to : "-"`: `"-"`,
		`input.items.map(i, i.sku)`:                `["book"]`,
		`input.items.exists(i, i.quantity > 1)`:    `true`,
		`[]`:                                       `[]`,
		`{}`:                                       `{}`,
		`steps`:                                    `{}`,
		`"a" + input.total`:                        `"a25.00"`,
	} {
		l := begin(t, withPayload(expr), input)
		if len(l.sent) != 1 {
			t.Errorf("%s: %+v", expr, l.step("a").Error)
		} else if got := string(l.sent[0].Payload); got != want {
			t.Errorf("%s gave %s, want %s", expr, got, want)
		}
	}
}

func TestAnExpressionThatCannotBeEvaluatedSaysWhy(t *testing.T) {
	t.Parallel()
	long := `{"l":[` + strings.TrimSuffix(strings.Repeat("1,", 100), ",") + `]}`
	for name, c := range map[string]struct{ expr, input, want string }{
		"a field that is not there":        {`input.x`, `{}`, "no such key: x"},
		"a division by zero":               {`1 / input.x`, `{"x":0}`, "division by zero"},
		"a number too large for an answer": {`input.x + 1`, `{"x":9223372036854775807}`, "overflow"},
		"a key that is no text":            {`{1: 2}`, `{}`, "the keys of a JSON object are strings"},
		"bytes":                            {`b"x"`, `{}`, "cannot be sent as JSON"},
		"a time":                           {`timestamp("2026-01-01T00:00:00Z")`, `{}`, "cannot be sent as JSON"},
		"a type":                           {`type(1)`, `{}`, "cannot be sent as JSON"},
		"no number":                        {`0.0 / 0.0`, `{}`, "NaN"},
		"a number beyond all":              {`input.x`, `{"x":1e400}`, "Inf"},
		"work without end":                 {`input.l.all(x, input.l.all(y, input.l.all(z, x + y + z > 0)))`, long, "cost limit exceeded"},
	} {
		l := begin(t, withPayload(c.expr), c.input)
		l.want("compensated: a=failed")
		if e := l.step("a").Error; e.Code != "expression" || !strings.Contains(e.Message, c.want) || !strings.Contains(e.Message, c.expr) {
			t.Errorf("%s: the step says %+v", name, e)
		}
	}
}

func TestAConditionMustBeTrueOrFalse(t *testing.T) {
	t.Parallel()
	const text = "name: d\nsteps: [{name: a, participant: p, action: do, compensation: undo, when: input.x}]"
	for input, want := range map[string]string{
		`{"x":true}`:  "running: a=running",
		`{"x":false}`: "completed: a=skipped",
		`{"x":1}`:     "compensated: a=failed",
		`{"x":"yes"}`: "compensated: a=failed",
		`{"x":null}`:  "compensated: a=failed",
		`{}`:          "compensated: a=failed",
	} {
		if got := begin(t, text, input).picture(); got != want {
			t.Errorf("%s: the saga is %s, want %s", input, got, want)
		}
	}
}

// Only results of steps that are through are visible: a sibling's would make
// one attempt's payload differ from another's.
func TestExpressionsSeeTheStepsBeforeTheirs(t *testing.T) {
	t.Parallel()
	l := begin(t, `
name: d
steps:
  - {name: a, participant: p, action: do-a, compensation: undo-a, after: []}
  - {name: b, participant: p, action: do-b, compensation: undo-b, after: []}
  - {name: c, participant: p, action: do-c, compensation: undo-c, after: [a], payload: steps}
  - {name: d, participant: p, action: do-d, compensation: undo-d, after: [c], payload: steps}`, `{}`)
	for _, step := range []string{"b", "a", "c"} {
		r := answer(l.command(step, saga.Action), saga.Succeeded)
		r.Result = json.RawMessage(`"` + step + `"`)
		l.give(r)
	}
	if got := string(l.command("c", saga.Action).Payload); got != `{"a":"a"}` {
		t.Errorf("c sees %s", got)
	}
	if got := string(l.command("d", saga.Action).Payload); got != `{"a":"a","c":"c"}` {
		t.Errorf("d sees %s", got)
	}
	l.act("d", saga.Failed)
	if got := string(l.command("c", saga.Compensation).Payload); got != `{"a":"a","c":"c"}` {
		t.Errorf("the compensation of c sees %s", got)
	}
}

// Without an expression a command carries all that its step may see.
func TestAPayloadIsByDefaultAllThatIsKnown(t *testing.T) {
	t.Parallel()
	l := begin(t, linear, `{"x": 1}`)
	r := answer(l.sent[0], saga.Succeeded)
	r.Result = json.RawMessage(`[1]`)
	l.give(r)
	l.act("b", saga.Succeeded) // without a result
	if got := string(l.command("c", saga.Action).Payload); got != `{"input":{"x": 1},"steps":{"a":[1]}}` {
		t.Errorf("c is sent %s", got)
	}
}

// What is cheap to evaluate may be long to write.
func TestAPayloadIsBounded(t *testing.T) {
	t.Parallel()
	l := begin(t, `
name: d
steps:
  - {name: a, participant: p, action: do-a, compensation: undo-a, payload: "input.list.map(x, input)"}`,
		`{"list": [0`+strings.Repeat(", 1", 3000)+`]}`)
	l.want("compensated: a=failed")
	if got := l.step("a").Error; got.Code != "expression" || !strings.HasSuffix(got.Message, "is larger than 1048576 bytes") {
		t.Errorf("the step failed with %+v", got)
	}
}

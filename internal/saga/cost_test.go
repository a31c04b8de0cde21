package saga_test

import (
	"strings"
	"testing"
)

// A client's input must not make cheap of what is dear: each of these would
// take seconds, or gigabytes, if length cost nothing.
func TestWhatAnExpressionCostsGrowsWithWhatItIsGiven(t *testing.T) {
	t.Parallel()
	numbers := func(n string) string { return "[0" + strings.Repeat(", "+n, 3000) + "]" }
	input := `{"l": ` + numbers("1") + `, "m": ` + numbers("2") + `, "n": [` + numbers("2") + `], "s": "` + strings.Repeat("ä", 50_000) + `"}`
	for _, when := range []string{
		`size([input.s]` + strings.Repeat(`.map(x, x + x)`, 12) + `) == 1`,
		`input.l.all(x, input.l + input.l == input.l + input.l)`,
		`input.l.all(x, input.m != input.l)`,
		`input.l.all(x, input.n != [input.l])`,
		`input.l.all(x, !(3 in input.m))`,
		`input.l.all(x, size(input.s) > 3)`,
		`input.l.all(x, !(input.s < input.s))`,
		`input.l.all(x, {"a": input.s} == {"a": input.s})`,
	} {
		l := begin(t, `
name: d
steps:
  - {name: a, participant: p, action: do-a, compensation: undo-a, when: '`+when+`'}`, input)
		l.want("compensated: a=failed")
		if got := l.step("a").Error; got.Code != "expression" || !strings.Contains(got.Message, "cost limit exceeded") {
			t.Errorf("%s: the step failed with %+v", when, got)
		}
	}
	// What everybody writes costs next to nothing.
	l := begin(t, `
name: d
steps:
  - {name: a, participant: p, action: do-a, compensation: undo-a, when: 'input.l.exists(x, x == 1) && size(input.s) > 3 && 2 in input.m && size(input.l.map(x, x + 1)) > 5'}`, input)
	l.want("running: a=running")
}

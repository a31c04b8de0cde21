package saga_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/skald-saga/skald/internal/saga"
)

func TestTheShippedDefinitionsCanBeRead(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("../../definitions/*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatalf("found %v, %v", files, err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		def, err := saga.Parse(text)
		if err != nil {
			t.Errorf("%s: %v", file, err)
		} else if want := strings.TrimSuffix(filepath.Base(file), ".yaml"); def.Name != want {
			t.Errorf("%s defines %q", file, def.Name)
		}
	}
}

func TestTheOrderSagaIsTheOneInTheBooks(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../../definitions/order.yaml")
	if err != nil {
		t.Fatal(err)
	}
	def := parse(t, string(text))
	var steps []string
	for _, s := range def.Steps {
		steps = append(steps, s.Name+" "+string(s.Kind)+" "+s.Participant+"/"+s.Action+"/"+s.Compensation)
	}
	want := []string{
		"reserve-stock compensatable inventory/reserve/release",
		"charge-customer compensatable payment/charge/refund",
		"update-inventory pivot inventory/commit/",
		"ship retriable shipping/dispatch/",
	}
	if diff := cmp.Diff(want, steps); diff != "" {
		t.Errorf("steps: -want +got\n%s", diff)
	}
	if diff := cmp.Diff([]string{"inventory", "payment", "shipping"}, def.Participants()); diff != "" {
		t.Errorf("participants: -want +got\n%s", diff)
	}
	// A payment that nobody answers for is given up within 15 s.
	charge := def.Steps[def.Index("charge-customer")]
	worst := time.Duration(charge.Retry.MaxAttempts)*charge.Timeout + 200*time.Millisecond + 400*time.Millisecond + 800*time.Millisecond
	if worst > 15*time.Second {
		t.Errorf("charge-customer is given up after %s", worst)
	}
}

func TestWhatIsLeftOutHasADefault(t *testing.T) {
	t.Parallel()
	def := parse(t, `
name: short
steps:
  - {name: a, participant: p, action: do, compensation: undo}
  - {name: b, participant: p, action: do, compensation: none, retry: {initial: 1m}}
  - {name: v, participant: p, action: do, kind: pivot, retry: {max: 100ms}}
  - {name: r, participant: p, action: do, kind: retriable, timeout: 1s, max_duration: 2s, retry: {max_attempts: 7}}`)
	usual := saga.RetryPolicy{MaxAttempts: 5, Initial: 200 * time.Millisecond, Max: 30 * time.Second}
	undo := saga.RetryPolicy{MaxAttempts: 20, Initial: 200 * time.Millisecond, Max: 30 * time.Second}
	a, b, v, r := def.Steps[0], def.Steps[1], def.Steps[2], def.Steps[3]
	for name, c := range map[string]struct{ got, want any }{
		"deadline":           {def.Deadline, time.Duration(0)},
		"kind":               {a.Kind, saga.Compensatable},
		"timeout":            {a.Timeout, 10 * time.Second},
		"max_duration":       {a.MaxDuration, time.Hour},
		"retry":              {a.Retry, usual},
		"compensation_retry": {a.CompensationRetry, undo},
		"no compensation":    {b.Compensation, ""},
		"a first wait longer than the usual longest":  {b.Retry, saga.RetryPolicy{MaxAttempts: 5, Initial: time.Minute, Max: time.Minute}},
		"a longest wait shorter than the usual first": {v.Retry, saga.RetryPolicy{MaxAttempts: 5, Initial: 100 * time.Millisecond, Max: 100 * time.Millisecond}},
		"the first step follows nothing":              {len(a.After), 0},
		"others follow the one above":                 {r.After, []int{2}},
		"a given timeout":                             {r.Timeout, time.Second},
		"a given max_duration":                        {r.MaxDuration, 2 * time.Second},
		"a given number of attempts":                  {r.Retry, saga.RetryPolicy{MaxAttempts: 7, Initial: 200 * time.Millisecond, Max: 30 * time.Second}},
		"a retriable step is tried without end":       {parse(t, pivotThenRetriable).Steps[1].Retry.MaxAttempts, 0},
	} {
		if diff := cmp.Diff(c.want, c.got); diff != "" {
			t.Errorf("%s: -want +got\n%s", name, diff)
		}
	}
}

const pivotThenRetriable = `
name: p
steps:
  - {name: v, participant: p, action: do, kind: pivot}
  - {name: r, participant: p, action: do, kind: retriable}`

// step is a definition with one step that has these fields besides the usual.
func step(fields string) string {
	return "name: d\nsteps:\n- {name: a, participant: p, action: do" + fields + "}\n"
}

func TestABadDefinitionIsRefusedWithThePlace(t *testing.T) {
	t.Parallel()
	const undo = ", compensation: undo"
	for name, c := range map[string]struct {
		text string
		want []string // the whole error, line by line, but for what a trailing … leaves open
	}{
		"an empty file":          {"", []string{"the definition is empty"}},
		"comments alone":         {"# nothing\n", []string{"the definition is empty"}},
		"text that is no YAML":   {"{", []string{"line 1: not YAML: …"}},
		"bytes that are no text": {"name: \x01", []string{"not YAML: …"}},
		"a list":                 {"- a", []string{"line 1: want named fields"}},
		"a scalar":               {"order", []string{"line 1: want named fields"}},
		"two documents":          {step(undo) + "---\n" + step(undo), []string{"one definition per file: there is a second document"}},
		"wrong types": {
			"name: [a]\nsteps: {}", []string{"line 1: want a text", "line 2: want a list"},
		},
		"unknown fields, at every depth": {
			"nam: d\nsteps:\n- {name: a, particpant: p, action: do, compensation: undo, retry: {max: 1s, tries: 3}}",
			[]string{`line 1: unknown field "nam"`, `line 3: unknown field "particpant"`, `line 3: unknown field "tries"`},
		},
		"fields in another case": {"Name: d\nsteps: []", []string{`line 1: unknown field "Name"`}},
		"a key twice":            {"name: d\nname: e\nsteps: []", []string{`line 2: mapping key "name" already defined at line 1`}},
		"a key twice in a step": {
			"name: d\nsteps:\n- name: a\n  name: b", []string{`line 4: mapping key "name" already defined at line 3`},
		},
		"a key twice in JSON": {`{"name": "d", "steps": [], "name": "e"}`, []string{`line 1: mapping key "name" already defined at line 1`}},
		"no name and no steps": {
			"{}", []string{"name: must match [a-z0-9-]+ and have at most 64 characters", "steps: a saga has 1 to 100"},
		},
		"a name with other characters": {strings.Replace(step(undo), "name: d", "name: Order_1", 1), []string{"name: must match …"}},
		"a name that is too long":      {strings.Replace(step(undo), "name: d", "name: "+strings.Repeat("d", 65), 1), []string{"name: must match …"}},
		"too many steps": {
			"name: d\nsteps:\n" + manySteps(101), []string{"steps: a saga has 1 to 100"},
		},
		"names with other characters": {
			"name: d\nsteps:\n- {name: a.b, participant: P, action: 'do it', compensation: ü}",
			[]string{
				`step 1 ("a.b"): name: must match …`, `step 1 ("a.b"): participant: must match …`,
				`step 1 ("a.b"): action: must match …`, `step 1 ("a.b"): compensation: must match …`,
			},
		},
		"an empty step": {
			"name: d\nsteps: [{}]",
			[]string{
				`step 1 (""): name: must match …`, `step 1 (""): participant: must match …`, `step 1 (""): action: must match …`,
				"step 1 (\"\"): compensation: must be given; write `none` if there is nothing to undo",
			},
		},
		"a step's name twice": {
			"name: d\nsteps:\n- {name: a, participant: p, action: do, compensation: none}\n- {name: a, participant: p, action: do, compensation: none}",
			[]string{`step 2 ("a"): name: there is another step of that name`},
		},
		"an unknown kind":          {step(", kind: optional"), []string{`step 1 ("a"): kind: must be compensatable, pivot, retriable or notification`}},
		"no compensation":          {step(""), []string{`step 1 ("a"): compensation: must be given; write ` + "`none` if there is nothing to undo"}},
		"a pivot's compensation":   {step(undo + ", kind: pivot"), []string{`step 1 ("a"): compensation: a pivot step is never compensated`}},
		"a pivot's undo policy":    {step(", kind: pivot, compensation_retry: {}"), []string{`step 1 ("a"): compensation: a pivot step is never compensated`}},
		"an action undoing itself": {step(", compensation: do"), []string{`step 1 ("a"): compensation: must differ from the action`}},
		"bad durations, all of them": {
			"name: d\ndeadline: 15\nsteps:\n- {name: a, participant: p, action: do, compensation: none,\n   timeout: -1s,\n   max_duration: soon,\n   retry: {initial: 0s, max: [1s]}}",
			[]string{
				"line 2: a duration is a positive number with a unit, such as 200ms or 15m",
				"line 5: a duration …", "line 6: a duration …", "line 7: a duration …", "line 7: a duration …",
			},
		},
		"a deadline that does something else":   {"name: d\ndeadline: 1m\non_deadline: forget\n" + step(undo)[len("name: d\n"):], []string{"on_deadline: must be compensate or suspend"}},
		"what a deadline does, without one":     {"name: d\non_deadline: suspend\n" + step(undo)[len("name: d\n"):], []string{"on_deadline: needs a deadline"}},
		"a stuck saga that does something else": {"name: d\non_stuck: forget\n" + step(undo)[len("name: d\n"):], []string{"on_stuck: must be wait or continue"}},
		"too many in flight":                    {"name: d\nmax_parallel: 101\n" + step(undo)[len("name: d\n"):], []string{"max_parallel: must be 1 to 100, or left out for no limit"}},
		"fewer than none in flight":             {"name: d\nmax_parallel: -1\n" + step(undo)[len("name: d\n"):], []string{"max_parallel: must be 1 to 100, or left out for no limit"}},
		"a notification that is undone":         {step(undo + ", kind: notification"), []string{`step 1 ("a"): compensation: a notification step is never compensated`}},
		"a notification that is awaited":        {step(", kind: notification, timeout: 1s"), []string{`step 1 ("a"): retry: no answer to a notification is awaited: it has no retry, timeout or max_duration`}},
		"a step that does nothing at all":       {"name: d\nsteps: [{name: a, participant: p, action: none, compensation: none}]", []string{`step 1 ("a"): action: must be given: a step that does nothing must have something to undo`}},
		"a pivot that does nothing":             {"name: d\nsteps: [{name: a, participant: p, action: none, kind: pivot}]", []string{`step 1 ("a"): action: must be given: a step that does nothing must have something to undo`}},
		"nothing that is tried again":           {"name: d\nsteps: [{name: a, participant: p, action: none, compensation: undo, retry: {}}]", []string{`step 1 ("a"): retry: there is no action to be tried again`}},
		"a number of attempts that is none": {
			step(undo + ", retry: {max_attempts: many}"), []string{"line 3: want a whole number"},
		},
		"a negative number of attempts": {
			step(undo + ", retry: {max_attempts: -1}, compensation_retry: {max_attempts: -1}"),
			[]string{
				`step 1 ("a"): compensation_retry: max_attempts must not be negative (0 means no limit)`,
				`step 1 ("a"): retry: max_attempts must not be negative (0 means no limit)`,
			},
		},
		"a first wait beyond the longest": {
			step(undo + ", retry: {initial: 2s, max: 1s}"), []string{`step 1 ("a"): retry: initial must not be longer than max`},
		},
		"a step after one that is not there": {step(undo + ", after: [x]"), []string{`step 1 ("a"): after: no step "x" stands above this one`}},
		"a step after itself":                {step(undo + ", after: [a]"), []string{`step 1 ("a"): after: no step "a" stands above this one`}},
		"a circle": {
			"name: d\nsteps:\n- {name: a, participant: p, action: do, compensation: none, after: [b]}\n- {name: b, participant: p, action: do, compensation: none, after: [a]}",
			[]string{`step 1 ("a"): after: no step "b" stands above this one`},
		},
		"a step after the same step twice": {
			"name: d\nsteps:\n- {name: a, participant: p, action: do, compensation: none}\n- {name: b, participant: p, action: do, compensation: none, after: [a, a]}",
			[]string{`step 2 ("b"): after: "a" is named twice`},
		},
		"expressions that do not compile": {
			step(undo + ", when: 'input.x +', payload: 'output.x'"),
			[]string{
				`step 1 ("a"): when: Syntax error…`,
				`step 1 ("a"): payload: undeclared reference to 'output', at line 1, character 1 of the expression`,
			},
		},
		"a condition that is none": {step(undo + ", when: size(input)"), []string{`step 1 ("a"): when: must be true or false, is int`}},
		"a comparison of unlike things": {
			step(undo + ", when: '1 == \"1\"'"), []string{`step 1 ("a"): when: found no matching overload for '_==_' applied to '(int, string)', at line 1, character 3 of the expression`},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			def, err := saga.Parse([]byte(c.text))
			if err == nil {
				t.Fatalf("was taken as %+v", def)
			}
			lines := strings.Split(err.Error(), "\n")
			for i, want := range c.want { // the places are tested below
				if i < len(lines) && !strings.HasPrefix(want, "line ") {
					lines[i] = place.ReplaceAllString(lines[i], "")
				}
			}
			for i, want := range c.want {
				if i < len(lines) {
					if prefix, open := strings.CutSuffix(want, "…"); lines[i] != want && !(open && strings.HasPrefix(lines[i], prefix)) {
						t.Errorf("line %d: got %q, want %q", i+1, lines[i], want)
					}
				}
			}
			if len(lines) != len(c.want) {
				t.Errorf("got %d lines, want %d:\n%s", len(lines), len(c.want), err)
			}
		})
	}
}

var place = regexp.MustCompile(`^line \d+: `)

// Every problem says at which line it is and, for those who sent JSON, where.
func TestEveryProblemHasALineAndAPath(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		text string
		want []string // line, path
	}{
		"in the form": {
			"name: d\ndead: 1m\nsteps:\n- name: a\n  timeout: 5\n  after: b\n  retry:\n    tries: 3\n",
			[]string{"2 dead", "5 steps/0/timeout", "6 steps/0/after", "8 steps/0/retry/tries"},
		},
		"behind an alias": {
			"name: d\nsteps:\n- &a\n  name: a\n  timeout: 5\n- *a\n",
			[]string{"5 steps/0/timeout", "5 steps/1/timeout"},
		},
		"in the steps": {
			"name: D\nsteps:\n- name: a\n  action: do\n  participant: p\n  compensation: none\n- name: b\n  participant: P\n  action: do\n  compensation: none\n  when: |\n    1 +\n",
			[]string{"1 name", "8 steps/1/participant", "11 steps/1/when"},
		},
		"at what is not there": {
			"steps:\n- name: a\n  participant: p\n- {participant: p, action: do, compensation: none}\n",
			[]string{"1 name", "2 steps/0/action", "2 steps/0/compensation", "4 steps/1/name"},
		},
		"in the graph": {
			"name: d\nsteps:\n- {name: v, participant: p, action: do, kind: pivot}\n- {name: w, participant: p, action: do,\n   kind: pivot}\n",
			[]string{"5 steps/1/kind"},
		},
	} {
		_, err := saga.Parse([]byte(c.text))
		var bad *saga.ParseError
		if !errors.As(err, &bad) {
			t.Errorf("%s: got %v", name, err)
			continue
		}
		var got []string
		for _, p := range bad.Problems {
			got = append(got, fmt.Sprint(p.Line, " ", strings.Join(p.Path, "/")))
		}
		if diff := cmp.Diff(c.want, got); diff != "" {
			t.Errorf("%s: -want +got\n%s", name, diff)
		}
	}
}

func manySteps(n int) string {
	var b strings.Builder
	for i := range n {
		b.WriteString("- {name: s" + strings.Repeat("x", i/26%4) + string(rune('a'+i%26)) + ", participant: p, action: do, compensation: none}\n")
	}
	return b.String()
}

func TestTheDigestIsThatOfTheContent(t *testing.T) {
	t.Parallel()
	base := parse(t, "name: d\ndeadline: 1m\nsteps:\n- {name: a, participant: p, action: do, compensation: undo, when: input.x}\n")
	for name, text := range map[string]string{
		"other order of the keys": "steps:\n- {when: input.x, compensation: undo, action: do, participant: p, name: a}\ndeadline: 1m\nname: d\n",
		"other layout, comments":  "# an order\nname:   d\ndeadline: \"60s\"\nsteps:\n  - name: a # first\n    participant: p\n    action: do\n    compensation: undo\n    when: 'input.x'\n",
		"JSON":                    `{"name":"d","deadline":"1m","steps":[{"name":"a","participant":"p","action":"do","compensation":"undo","when":"input.x"}]}`,
		"JSON with tabs":          "{\n\t\"name\": \"d\",\n\t\"deadline\": \"1m0s\",\n\t\"steps\": [\n\t\t{\"name\": \"a\", \"participant\": \"p\", \"action\": \"do\", \"compensation\": \"undo\", \"when\": \"input.x\"}\n\t]\n}\n",
		"an alias":                "name: d\ndeadline: 1m\nsteps:\n- {name: a, participant: &p p, action: do, compensation: undo, when: input.x}\n",
		"its own source":          string(base.Source),
	} {
		if got := parse(t, text); got.Digest != base.Digest {
			t.Errorf("%s: another digest, of %s instead of %s", name, got.Source, base.Source)
		}
	}
	for name, text := range map[string]string{
		"another name":       "name: e\ndeadline: 1m\nsteps:\n- {name: a, participant: p, action: do, compensation: undo, when: input.x}\n",
		"another deadline":   "name: d\ndeadline: 2m\nsteps:\n- {name: a, participant: p, action: do, compensation: undo, when: input.x}\n",
		"no deadline":        "name: d\nsteps:\n- {name: a, participant: p, action: do, compensation: undo, when: input.x}\n",
		"another condition":  "name: d\ndeadline: 1m\nsteps:\n- {name: a, participant: p, action: do, compensation: undo, when: input.y}\n",
		"another policy":     "name: d\ndeadline: 1m\nsteps:\n- {name: a, participant: p, action: do, compensation: undo, when: input.x, retry: {max_attempts: 0}}\n",
		"an empty after":     "name: d\ndeadline: 1m\nsteps:\n- {name: a, participant: p, action: do, compensation: undo, when: input.x, after: []}\n",
		"another compensate": "name: d\ndeadline: 1m\nsteps:\n- {name: a, participant: p, action: do, compensation: none, when: input.x}\n",
	} {
		if got := parse(t, text); got.Digest == base.Digest {
			t.Errorf("%s: the same digest, of %s", name, got.Source)
		}
	}
}

// A few hundred bytes of aliases must not become gigabytes of memory.
func TestABombOfAliasesIsRefused(t *testing.T) {
	t.Parallel()
	var bomb strings.Builder
	bomb.WriteString("l0: &l0 [x]\n")
	for i := range 30 {
		prev, name := "*l"+string(rune('0'+i)), "l"+string(rune('1'+i))
		bomb.WriteString(name + ": &" + name + " [" + strings.Repeat(prev+", ", 9) + prev + "]\n")
	}
	for name, text := range map[string]string{
		"in unknown fields":      bomb.String() + "name: d\nsteps: []",
		"as the steps":           bomb.String() + "name: d\nsteps: *l8",
		"in the second document": step(", compensation: none") + "---\n" + bomb.String(),
		"of itself":              "name: d\nsteps: &s [*s]",
		"as a merge of itself":   "name: d\nsteps:\n- &s {name: a, <<: *s}",
	} {
		if _, err := saga.Parse([]byte(text)); err == nil || len(err.Error()) > 100_000 {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, text := range []string{
		linear, pivoted, parallel, conditional, diamond, pivotThenRetriable, "", "{}", "- a", "steps: [{}]", "a: &a [*a]", "name: d\n---\nname: e",
		step(", compensation: undo, when: 'input.x', after: [], retry: {max_attempts: 0, initial: 1s, max: 1m}"),
	} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		def, err := saga.Parse(text)
		if err != nil {
			return
		}
		again, err := saga.Parse(def.Source)
		if err != nil || again.Digest != def.Digest {
			t.Fatalf("the source of a definition is another one: %v\n%s", err, def.Source)
		}
		if _, err := saga.Start(def, id, []byte(`{}`), t0); err != nil {
			t.Errorf("start: %v", err)
		}
	})
}

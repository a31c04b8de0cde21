package saga

import (
	"fmt"
	"os"
	"reflect"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"
)

func reference(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile("../../docs/definitions.md")
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func TestTheExamplesOfTheReferenceCanBeRead(t *testing.T) {
	t.Parallel()
	blocks := regexp.MustCompile("(?s)```(?:yaml|json)\n(.*?)```").FindAllStringSubmatch(reference(t), -1)
	if len(blocks) == 0 {
		t.Fatal("there is no example")
	}
	for i, block := range blocks {
		if _, err := Parse([]byte(block[1])); err != nil {
			t.Errorf("example %d: %v", i+1, err)
		}
	}
}

func TestTheReferenceHasARowForEveryFieldAndNoOther(t *testing.T) {
	t.Parallel()
	sections := strings.Split(reference(t), "\n#")
	for heading, document := range map[string]any{
		"# The saga": document{}, "# A step": documentStep{}, "## Retries": documentRetry{},
	} {
		var rows string
		for _, s := range sections {
			if strings.HasPrefix(s, heading+"\n") {
				rows = s
			}
		}
		known := map[string]bool{}
		for _, field := range reflect.VisibleFields(reflect.TypeOf(document)) {
			name := field.Tag.Get("yaml")
			known[name] = true
			if !strings.Contains(rows, "\n| `"+name+"` |") {
				t.Errorf("%q has no row for %s", heading, name)
			}
		}
		for _, row := range regexp.MustCompile("(?m)^\\| `([a-z_]+)` \\| [^0-9]").FindAllStringSubmatch(rows, -1) {
			if !known[row[1]] {
				t.Errorf("%q has a row for %s, which the parser does not know", heading, row[1])
			}
		}
	}
}

func TestTheReferenceStatesTheDefaultsAndLimitsOfTheCode(t *testing.T) {
	t.Parallel()
	policy := func(p RetryPolicy) string {
		return fmt.Sprintf("| %d | %s | %s |\n", p.MaxAttempts, brief(p.Initial), brief(p.Max))
	}
	rows := strings.Split(reference(t), "\n")
	for start, want := range map[string]string{
		"| `timeout` |":             "| `" + brief(defaultTimeout) + "` |",
		"| `max_duration` |":        "| `" + brief(defaultMaxDuration) + "` |",
		"| `kind` |":                "| `" + string(Compensatable) + "` |",
		"| `events` |":              "| `" + string(EventsTerminal) + "` |",
		"| `steps` |":               "| 1 to " + strconv.Itoa(MaxSteps) + " |",
		"| `retry` of a compensat":  policy(defaultRetry),
		"| `retry` of a retriable":  policy(defaultRetriable),
		"| `compensation_retry` | ": policy(defaultCompensation),
		"payload may be any JSON":   fmt.Sprintf("%d,%03d of CEL's units", maxCost/1000, maxCost%1000),
	} {
		found := false
		for _, row := range rows {
			found = found || strings.HasPrefix(row, start) && strings.Contains(row+"\n", want)
		}
		if !found {
			t.Errorf("the line %q… does not say %q", start, want)
		}
	}
}

// brief writes a duration as people do: 1h, not 1h0m0s.
func brief(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

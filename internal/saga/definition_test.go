package saga_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/skald-saga/skald/internal/saga"
)

// Compensatable steps come before the pivot on every path, retriable ones
// after it, and there is one pivot at most: only then is every state one from
// which the saga can end with all of its effects or with none.
func TestTheKindsOfStepsHaveAnOrder(t *testing.T) {
	t.Parallel()
	// A graph is written "name:kind<predecessors", with c, v and r for the kinds.
	for graph, want := range map[string]string{
		"a:c b:c":                 "",
		"a:v":                     "",
		"a:c v:v r:r s:r":         "",
		"a:c< b:c< v:v<a,b r:r<v": "",
		"a:c< v:v<a r:r<v s:r<v":  "",
		"a:c v:v w:v":             `step "w": the saga already has a pivot, "v"`,
		"a:r":                     `step "a": a retriable step needs a pivot before it`,
		"a:c r:r":                 `step "r": a retriable step needs a pivot before it`,
		"v:v a:c":                 `step "a": a compensatable step must come before the pivot "v" on every path`,
		"a:c< b:c< v:v<a":         `step "b": a compensatable step must come before the pivot "v" on every path`,
		"a:c v:v r:r<a":           `step "r": a retriable step must come after the pivot "v"`,
		"a:c< v:v<a r:r<":         `step "r": a retriable step must come after the pivot "v"`,
		"r:r v:v":                 `step "r": a retriable step must come after the pivot "v"`,
	} {
		_, err := saga.Parse([]byte(graphText(graph)))
		got := ""
		if err != nil {
			got = place.ReplaceAllString(err.Error(), "")
		}
		if got != want {
			t.Errorf("%s: got %q, want %q", graph, got, want)
		}
	}
}

func TestEveryBreachOfTheOrderIsNamed(t *testing.T) {
	t.Parallel()
	_, err := saga.Parse([]byte(graphText("r:r< v:v<r w:v a:c")))
	if err == nil || strings.Count(err.Error(), "\n") != 2 {
		t.Errorf("got %v, want three errors", err)
	}
}

func graphText(graph string) string {
	var b strings.Builder
	b.WriteString("name: graph\nsteps:\n")
	for _, node := range strings.Fields(graph) {
		node, after, given := strings.Cut(node, "<")
		name, kind, _ := strings.Cut(node, ":")
		rest := map[string]string{"c": "compensation: undo", "v": "kind: pivot", "r": "kind: retriable"}[kind]
		if given {
			rest += ", after: [" + after + "]"
		}
		fmt.Fprintf(&b, "- {name: %s, participant: p, action: do, %s}\n", name, rest)
	}
	return b.String()
}

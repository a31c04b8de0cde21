package archtest

import (
	"fmt"
	"go/ast"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// What the documentation says of tests is true only while there are such tests.
func TestTheTestsThatTheDocumentationNamesExist(t *testing.T) {
	t.Parallel()
	root := filepath.Join("..", "..")
	tests := readModule(t, root).tests()
	for _, name := range []string{"faults.md", "promises.md"} {
		for _, wrong := range checkNamedTests(read(t, filepath.Join(root, "docs", name)), tests) {
			t.Errorf("docs/%s: %s", name, wrong)
		}
	}
	for _, wrong := range checkFaults(read(t, filepath.Join(root, "docs", "faults.md")), 57) {
		t.Errorf("docs/faults.md: %s", wrong)
	}
}

func read(t *testing.T, name string) string {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// tests returns the names of all tests.
func (m *module) tests() map[string]bool {
	names := map[string]bool{}
	for _, p := range m.packages {
		for _, f := range p.files {
			for _, d := range f.syntax.Decls {
				if fn, ok := d.(*ast.FuncDecl); ok && f.test && fn.Recv == nil {
					names[fn.Name.Name] = true
				}
			}
		}
	}
	return names
}

// A name may end in an ellipsis: it stands for several.
var namedTest = regexp.MustCompile("`(Test[A-Z0-9][A-Za-z0-9_]*)(…?)`")

// checkNamedTests looks for names of tests that do not exist.
func checkNamedTests(text string, tests map[string]bool) (wrong []string) {
	for _, m := range namedTest.FindAllStringSubmatch(text, -1) {
		if m[2] == "" && !tests[m[1]] {
			wrong = append(wrong, "there is no "+m[1])
		}
	}
	return wrong
}

var faultRow = regexp.MustCompile(`(?m)^\| (\d+) \| .+ \| (.+) \|$`)

// checkFaults looks for cases that are missing, and for those that have neither
// a test nor a reason.
func checkFaults(text string, n int) (wrong []string) {
	next := 1
	for _, m := range faultRow.FindAllStringSubmatch(text, -1) {
		if m[1] != strconv.Itoa(next) {
			wrong = append(wrong, fmt.Sprintf("case %s stands where %d should", m[1], next))
		}
		next++
		if !namedTest.MatchString(m[2]) && !strings.HasPrefix(m[2], "none: ") {
			wrong = append(wrong, fmt.Sprintf("case %s has neither a test nor a reason", m[1]))
		}
	}
	if next != n+1 {
		wrong = append(wrong, fmt.Sprintf("there are %d cases, not %d", next-1, n))
	}
	return wrong
}

func TestDocumentationThatIsWrongIsFound(t *testing.T) {
	t.Parallel()
	text := "| 1 | a | x `TestA` |\n| 3 | b | none: because |\n| 4 | c | some day |\n`TestB` and `TestHardCase…`\n"
	got := append(checkNamedTests(text, map[string]bool{"TestA": true}), checkFaults(text, 4)...)
	want := []string{"there is no TestB", "case 3 stands where 2 should", "case 4 stands where 3 should", "case 4 has neither a test nor a reason", "there are 3 cases, not 4"}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("got %q, want %q", got, want)
	}
}

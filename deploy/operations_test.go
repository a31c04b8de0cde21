package deploy_test

import (
	"context"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/skald-saga/skald/internal/testkit"
)

func operations(t *testing.T) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(testkit.Root(t), "docs", "operations.md"))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// Whoever is called at night must not meet a query that does not run.
func TestEveryQueryOfTheOperationsPageRuns(t *testing.T) {
	t.Parallel()
	queries := regexp.MustCompile("(?s)```sql\n(.*?)```").FindAllStringSubmatch(operations(t), -1)
	if len(queries) < 3 {
		t.Fatalf("only %d queries found", len(queries))
	}
	pool := testkit.Postgres(t)
	for _, q := range queries {
		if _, err := pool.Exec(context.Background(), q[1]); err != nil {
			t.Errorf("%v:\n%s", err, q[1])
		}
	}
}

func TestEveryFlagOfTheOperationsPageExists(t *testing.T) {
	t.Parallel()
	help := ""
	for _, c := range [][]string{
		{"cmd/server", "serve", "--help"}, {"cmd/server", "migrate", "down", "--help"}, {"cmd/relay", "run", "--help"}, {"cmd/relay", "rewind", "--help"},
	} {
		out, err := exec.Command(testkit.Build(t, c[0]), c[1:]...).CombinedOutput()
		if err != nil {
			t.Fatalf("%v: %v\n%s", c, err, out)
		}
		help += string(out)
	}
	names := regexp.MustCompile(`--[a-z][a-z-]+|\b(?:SKALD|DATABASE|NATS)_[A-Z_]+\b`).FindAllString(operations(t), -1)
	if len(names) < 20 {
		t.Fatalf("only %d flags and variables found", len(names))
	}
	for _, name := range names {
		if strings.HasPrefix(name, "SKALD_REPLIES") || strings.HasPrefix(name, "SKALD_COMMANDS") {
			continue // streams
		}
		if !regexp.MustCompile(`(^|[^A-Za-z_-])` + name + `($|[^A-Za-z_-])`).MatchString(help) {
			t.Errorf("no program knows %s", name)
		}
	}
}

func TestEveryMetricOfTheOperationsPageExists(t *testing.T) {
	t.Parallel()
	existing := map[string]bool{}
	named := regexp.MustCompile(`Name: "((?:saga|outbox|http|participant)_[a-z_]+)"`)
	for _, top := range []string{"internal", "participant"} {
		err := filepath.WalkDir(filepath.Join(testkit.Root(t), top), func(name string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() || filepath.Base(name) != "metrics.go" {
				return err
			}
			b, err := os.ReadFile(name)
			for _, m := range named.FindAllStringSubmatch(string(b), -1) {
				existing[m[1]] = true
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	page := operations(t)
	for name := range existing {
		if !strings.Contains(page, "`"+name) {
			t.Errorf("%s is not on the page", name)
		}
	}
	for _, m := range regexp.MustCompile("`(?:absent\\()?((?:saga|outbox|http|participant)_[a-z_]+)[`{)]").FindAllStringSubmatch(page, -1) {
		if table := map[string]bool{"outbox_lane": true, "saga_timer": true}; !existing[m[1]] && !table[m[1]] {
			t.Errorf("no program has a metric %s", m[1])
		}
	}
}

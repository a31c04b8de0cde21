package main

import (
	"bytes"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/skald-saga/skald/internal/testkit"
)

func TestABenchThatCannotBeIsRefused(t *testing.T) {
	t.Parallel()
	server := testkit.Build(t, "cmd/server")
	for name, c := range map[string]struct {
		args []string
		says string
	}{
		"no backlog":                 {[]string{"--server", server, "--rows", "-1"}, "--rows"},
		"no rounds":                  {[]string{"--server", server, "--rounds", "-1"}, "--rounds"},
		"a JSON file that cannot be": {[]string{"--server", server, "--json", "/nowhere/x.json"}, "--json"},
		"a server that is not there": {[]string{"--server", "/nowhere/server"}, "--server"},
		"a word that is no flag":     {[]string{"fast"}, "fast"},
		"a number that is none":      {[]string{"--rows", "many"}, "--rows"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var stdout, stderr bytes.Buffer
			code := run(t.Context(), append([]string{"bench"}, c.args...), &stdout, &stderr)
			line := stderr.String()
			if code != 2 || strings.Count(line, "\n") != 1 || !strings.HasPrefix(line, "relay: --") && !strings.Contains(line, c.says) {
				t.Errorf("exit status %d, said %q; want 2 and one line with %s", code, line, c.says)
			}
		})
	}
}

// The server's program, with its Postgres and NATS, ends with whoever started
// the bench, however that ends.
func TestABenchEndsWithItsCaller(t *testing.T) {
	t.Parallel()
	outcome := filepath.Join(t.TempDir(), "outcome.json")
	cmd := exec.Command(testkit.Build(t, "cmd/relay"), "bench", "--quick", "--json", outcome, "--server", testkit.Build(t, "cmd/server"))
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(out, make([]byte, 10)); err != nil {
		t.Fatal(err)
	}
	measuring := func() bool {
		all, err := filepath.Glob("/proc/[0-9]*/cmdline")
		if err != nil || len(all) == 0 {
			t.Fatal(err)
		}
		for _, name := range all {
			if b, err := os.ReadFile(name); err == nil && bytes.Contains(b, []byte("bench-relay")) && bytes.Contains(b, []byte(outcome)) {
				return true
			}
		}
		return false
	}
	if !measuring() {
		t.Error("nobody measures")
	}
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
	testkit.Eventually(t, "nobody measures", 30*time.Second, func() (bool, string) { return !measuring(), outcome })
}

package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestABenchThatCannotBeIsRefusedBeforeAnythingIsStarted(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		args []string
		says string
	}{
		"no clients":                     {[]string{"--clients", "0"}, "--clients"},
		"too many clients":               {[]string{"--clients", "20000"}, "--clients"},
		"no rate":                        {[]string{"--rate", "0"}, "--rate"},
		"no rounds":                      {[]string{"--rounds", "-1"}, "--rounds"},
		"too short a measurement":        {[]string{"--for", "1ms"}, "--for"},
		"a duration below nothing":       {[]string{"--idle-for", "-1s"}, "--idle-for"},
		"participants that nobody knows": {[]string{"--with", "elves"}, "--with"},
		"fewer sagas than none":          {[]string{"--open", "-1"}, "--open"},
		"a JSON file that cannot be":     {[]string{"--json", "/nowhere/x.json"}, "--json"},
		"a plot that cannot be":          {[]string{"--scale", "--svg", "/nowhere/x.svg"}, "--svg"},
		"a relay that is not there":      {[]string{"--relay", "/nowhere/relay"}, "--relay"},
		"a word that is no flag":         {[]string{"fast"}, "fast"},
		"a number that is none":          {[]string{"--clients", "many"}, "--clients"},
		"a duration that is none":        {[]string{"--rate-for", "soon"}, "--rate-for"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var stdout, stderr bytes.Buffer
			code := run(t.Context(), append([]string{"bench"}, c.args...), &stdout, &stderr)
			line := stderr.String()
			if code != 2 || strings.Count(line, "\n") != 1 || !strings.Contains(line, c.says) {
				t.Errorf("exit status %d, said %q; want 2 and one line with %s", code, line, c.says)
			}
		})
	}
}

// A file that an earlier run has written stays as it is if this one cannot be.
func TestARefusedBenchLeavesTheOutcomeOfAnEarlierOne(t *testing.T) {
	t.Parallel()
	name := filepath.Join(t.TempDir(), "bench.json")
	if err := os.WriteFile(name, []byte("earlier"), 0o600); err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if code := run(t.Context(), []string{"bench", "--relay", "/nowhere/relay", "--json", name}, &out, &out); code != 2 {
		t.Fatalf("exit status %d: %s", code, &out)
	}
	if b, err := os.ReadFile(name); err != nil || string(b) != "earlier" {
		t.Errorf("%q, %v", b, err)
	}
}

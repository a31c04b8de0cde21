package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/skald-saga/skald/internal/testkit"
)

// folder holds files by name.
func folder(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

const trip = "name: trip\nsteps:\n- {name: flight, participant: airline, action: book, compensation: cancel}\n"

func TestDefinitionsAreValidatedWithALineForEachMistake(t *testing.T) {
	t.Parallel()
	dir := folder(t, map[string]string{
		"a.yaml": trip,
		"b.yaml": "name: tour\nsteps:\n- name: flight\n  tries: 3\n  timeout: 5\n",
		"c.json": `{"name": "Tour", "steps": []}`,
		"d.yml":  strings.Replace(trip, "book", "reserve", 1),
		"e.yaml": "name: cel\nsteps:\n- {name: a, participant: p, action: b, compensation: none,\n   when: 1 +}\n",
		"f.txt":  "no definition",
	})
	for _, command := range []string{"validate", "apply"} {
		var stdout, stderr bytes.Buffer
		args := []string{"definitions", command, dir}
		if command == "apply" {
			args = append(args, "--database-url", "postgres://localhost:1/nobody-is-asked")
		}
		if code := run(t.Context(), args, &stdout, &stderr); code != 2 || stdout.Len() > 0 {
			t.Errorf("%s: exit status %d, said %q", command, code, &stdout)
		}
		var places []string
		for line := range strings.Lines(stderr.String()) {
			parts := strings.SplitN(strings.TrimPrefix(line, dir+"/"), ":", 3)
			if len(parts) < 3 {
				t.Fatalf("%s: the line %q", command, line)
			}
			places = append(places, parts[0]+":"+parts[1])
		}
		if diff := cmp.Diff([]string{"b.yaml:4", "b.yaml:5", "c.json:1", "c.json:1", "d.yml:1", "e.yaml:4"}, places); diff != "" {
			t.Errorf("%s: places -want +got\n%s\n%s", command, diff, &stderr)
		}
	}
	var out bytes.Buffer
	if code := run(t.Context(), []string{"definitions", "validate", folder(t, map[string]string{"a.yaml": trip})}, &out, &out); code != 0 || out.String() != "1 definitions are right\n" {
		t.Errorf("what is right: exit status %d, %q", code, &out)
	}
	for name, dir := range map[string]string{"an empty folder": t.TempDir(), "a folder that is not there": "/nothing"} {
		out.Reset()
		if code := run(t.Context(), []string{"definitions", "validate", dir}, &out, &out); code != 2 || strings.Count(out.String(), "\n") != 1 {
			t.Errorf("%s: exit status %d, %q", name, code, &out)
		}
	}
}

func TestDefinitionsAreAppliedAsOftenAsOneLikes(t *testing.T) {
	t.Parallel()
	url := testkit.EmptyDatabaseURL(t)
	dir := folder(t, map[string]string{"trip.yaml": trip})
	next := folder(t, map[string]string{"trip.yaml": strings.Replace(trip, "book", "reserve", 1)})
	for _, step := range []struct {
		args []string
		code int
		says string
	}{
		{[]string{"definitions", "apply", dir}, 2, "migrate up"},
		{[]string{"migrate", "up"}, 0, ""},
		{[]string{"definitions", "apply", dir}, 0, "trip: version 1, new\n"},
		{[]string{"definitions", "apply", dir}, 0, "trip: version 1, stored before\n"},
		{[]string{"definitions", "apply", next}, 0, "trip: version 2, new\n"},
	} {
		var out bytes.Buffer
		if code := run(t.Context(), append(step.args, "--database-url", url), &out, &out); code != step.code || !strings.Contains(out.String(), step.says) {
			t.Errorf("%v: exit status %d, said %q; want %d and %q", step.args, code, out.String(), step.code, step.says)
		}
	}
}

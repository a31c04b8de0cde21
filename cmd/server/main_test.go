package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/skald-saga/skald/internal/program"
	"github.com/skald-saga/skald/internal/testkit"
	"github.com/skald-saga/skald/migrations"
)

func TestMain(m *testing.M) { testkit.Main(m) }

// A mistake on the command line is one line that names what to change, and
// exit status 2.
func TestMistakesAreOneLineAndStatus2(t *testing.T) {
	for _, name := range []string{"DATABASE_URL", "NATS_URL"} {
		t.Setenv(name, "") // so that it is as it was afterwards
		if err := os.Unsetenv(name); err != nil {
			t.Fatal(err)
		}
	}
	taken, err := program.Listen("x", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = taken.Close() }()
	port := taken.Addr().String()
	const db = "postgres://u:hunter2@127.0.0.1:1/x"
	for name, c := range map[string]struct {
		args []string
		says string
	}{
		"no command":                     {nil, "expected one of"},
		"an unknown command":             {[]string{"sing"}, "sing"},
		"an unknown flag":                {[]string{"serve", "--fast"}, "--fast"},
		"no database":                    {[]string{"serve"}, "--database-url"},
		"a database URL of another kind": {[]string{"serve", "--database-url", "mysql://x"}, "--database-url"},
		"a broken database URL":          {[]string{"serve", "--database-url", "postgres://u:hunter2@:x/%zz"}, "--database-url"},
		"a database URL twice":           {[]string{"migrate", "up", "--database-url", db, "--database-url-file", "/nothing"}, "--database-url-file"},
		"a file that is not there":       {[]string{"migrate", "up", "--database-url-file", "/nothing"}, "--database-url-file"},
		"a taken API port":               {[]string{"serve", "--database-url", db, "--http-addr", port}, "--http-addr"},
		"a taken admin port":             {[]string{"serve", "--database-url", db, "--http-addr", "127.0.0.1:0", "--admin-addr", port}, "--admin-addr"},
		"a taken NATS port":              {[]string{"dev", "--http-addr", "127.0.0.1:0", "--nats-addr", port}, "--nats-addr"},
		"a taken Postgres port":          {[]string{"dev", "--http-addr", "127.0.0.1:0", "--nats-addr", "127.0.0.1:0", "--postgres-addr", port}, "--postgres-addr"},
		"an address without port":        {[]string{"dev", "--http-addr", "localhost"}, "--http-addr"},
		"an open address without auth":   {[]string{"serve", "--database-url", db, "--http-addr", "0.0.0.0:0"}, "--insecure-no-auth"},
		"all addresses without auth":     {[]string{"dev", "--http-addr", ":0"}, "--insecure-no-auth"},
		"a NATS URL of another kind":     {[]string{"serve", "--database-url", db, "--nats-url", "http://u:hunter2@x"}, "--nats-url"},
		"a prefix with a wildcard":       {[]string{"serve", "--database-url", db, "--prefix", "a.>"}, "--prefix"},
		"a log format":                   {[]string{"serve", "--log-format", "xml"}, "--log-format"},
		"a log level":                    {[]string{"serve", "--log-level", "loud"}, "--log-level"},
		"a duration":                     {[]string{"serve", "--drain-timeout", "soon"}, "--drain-timeout"},
		"a negative limit":               {[]string{"serve", "--database-url", db, "--max-outbox-rows=-1"}, "--max-outbox-rows"},
		"a folder without definitions":   {[]string{"serve", "--database-url", db, "--definitions", t.TempDir()}, "--definitions"},
		"a folder that is not there":     {[]string{"serve", "--database-url", db, "--definitions", "/nothing"}, "--definitions"},
		"down without consent":           {[]string{"migrate", "down", "--database-url", db}, "--yes"},
	} {
		t.Run(name, func(t *testing.T) {
			var stdout, stderr bytes.Buffer
			code := run(context.Background(), c.args, &stdout, &stderr)
			line := stderr.String()
			if code != 2 || strings.Count(line, "\n") != 1 || !strings.Contains(line, c.says) {
				t.Errorf("exit status %d, said %q; want 2 and one line with %s", code, line, c.says)
			}
			if strings.Contains(line, "hunter2") {
				t.Errorf("the password is in %q", line)
			}
			if stdout.Len() > 0 {
				t.Errorf("standard output: %q", stdout.String())
			}
		})
	}
}

// The README's first command must work beside whatever has the admin port.
func TestOnlyServeHasAnAdminPortUnlessTold(t *testing.T) {
	t.Parallel()
	for command, want := range map[string]bool{"serve": true, "dev": false} {
		var out bytes.Buffer
		if code := run(t.Context(), []string{command, "--help"}, &out, &out); code != 0 || !strings.Contains(out.String(), "--admin-addr") {
			t.Fatalf("%s --help: %d, %s", command, code, &out)
		}
		if got := strings.Contains(out.String(), "127.0.0.1:9090"); got != want {
			t.Errorf("%s has the admin port 9090: %t, want %t", command, got, want)
		}
	}
}

func TestMigrateUpStatusDown(t *testing.T) {
	t.Parallel()
	url := testkit.EmptyDatabaseURL(t)
	for _, step := range []struct {
		args []string
		code int
		says string
	}{
		{[]string{"migrate", "status"}, 2, fmt.Sprintf("version 0 of %d", migrations.Latest())},
		{[]string{"serve", "--http-addr", "127.0.0.1:0", "--admin-addr", ""}, 2, "migrate up"},
		{[]string{"migrate", "up"}, 0, ""},
		{[]string{"migrate", "up"}, 0, ""},
		{[]string{"migrate", "status"}, 0, fmt.Sprintf("version %[1]d of %[1]d", migrations.Latest())},
		{[]string{"verify"}, 0, "0 sagas, 0 flaws"},
		{[]string{"migrate", "down", "--yes"}, 0, ""},
		{[]string{"migrate", "status"}, 2, "too old"},
	} {
		var out bytes.Buffer
		if code := run(t.Context(), append(step.args, "--database-url", url), &out, &out); code != step.code || !strings.Contains(out.String(), step.says) {
			t.Errorf("%v: exit status %d, said %q; want %d and %q", step.args, code, out.String(), step.code, step.says)
		}
	}
}

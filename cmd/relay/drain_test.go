package main

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/skald-saga/skald/internal/testkit"
)

const drainFile = `
table: outboxevent
id: id
order: created_at
key: aggregateid
subject: s.{type}
payload: payload
settle: {delete: true}
`

// write puts text into a file.
func write(t testing.TB, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "drain.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// foreign is a database with an outbox of another make.
func foreign(t testing.TB) (db string, pool *pgxpool.Pool) {
	t.Helper()
	db = testkit.EmptyDatabaseURL(t)
	pool = testkit.Pool(t, db)
	const table = `CREATE TABLE outboxevent (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), aggregateid text NOT NULL, type text NOT NULL,
		payload jsonb NOT NULL DEFAULT '{}', created_at timestamptz NOT NULL DEFAULT clock_timestamp()); CREATE INDEX ON outboxevent (created_at)`
	if _, err := pool.Exec(t.Context(), table); err != nil {
		t.Fatal(err)
	}
	return db, pool
}

func insertForeign(t testing.TB, pool *pgxpool.Pool) (id string) {
	t.Helper()
	if err := pool.QueryRow(t.Context(), `INSERT INTO outboxevent (aggregateid, type) VALUES ('k', 'a') RETURNING id::text`).Scan(&id); err != nil {
		t.Fatal(err)
	}
	return id
}

// Two relays drain a table that knows nothing of Skald; whichever is killed,
// every row arrives, and those that were published twice are dropped.
func TestAKilledDrainLosesNothing(t *testing.T) {
	t.Parallel()
	db, pool := foreign(t)
	broker := testkit.NATS(t).URL()
	s := stream(t, broker)
	if out := command(t, 0, "install", "--drain", "--database-url", db); !strings.Contains(out, "relay drain can work") {
		t.Errorf("install: %q", out)
	}
	file := write(t, drainFile)
	begin := func() *process { return startCommand(t, db, broker, "drain", file) }
	relays := []*process{begin(), begin()}
	for _, p := range relays {
		p.admin(t)
	}
	var ids []string
	for round := range 3 {
		for range 40 {
			ids = append(ids, insertForeign(t, pool))
		}
		relays[round%2].kill()
		ids = append(ids, insertForeign(t, pool))
		relays[round%2] = begin()
	}
	awaitIDs(t, s, ids...)
	testkit.Eventually(t, "the table is empty", 20*time.Second, func() (bool, string) {
		var n int
		err := pool.QueryRow(t.Context(), `SELECT count(*) FROM outboxevent`).Scan(&n)
		return err == nil && n == 0, ""
	})
	admin := relays[0].admin(t)
	awaitReady(t, admin, 200, map[string]string{"database": "ok", "nats": "ok"})
	if _, body := get(t, admin+"/metrics"); !strings.Contains(body, "drain_leader") {
		t.Error("no metrics")
	}
	for _, p := range relays {
		if code := p.stop(t, syscall.SIGTERM); code != 0 {
			t.Errorf("exit status %d", code)
		}
	}
}

// Mistakes in the file are one line and exit status 2, those that only the
// database knows too.
func TestMistakesInADrainAreNamedInOneLine(t *testing.T) {
	t.Parallel()
	db, _ := foreign(t)
	for _, c := range []struct{ file, want string }{
		{filepath.Join(t.TempDir(), "none.yaml"), "none.yaml"},
		{write(t, "table: outboxevent\n"), "id: must be given; payload: must be given"},
		{write(t, drainFile), "relay install --drain"},
		{write(t, strings.Replace(drainFile, "order: created_at", "order: at", 1)), "has no column at"},
	} {
		out := command(t, 2, "drain", c.file, "--database-url", db, "--admin-addr", "", "--nats-url", "nats://127.0.0.1:1", "--log-level", "error")
		if lines := strings.Split(strings.TrimSpace(out), "\n"); !strings.Contains(lines[len(lines)-1], c.want) {
			t.Errorf("%q; want %q", out, c.want)
		}
	}
}

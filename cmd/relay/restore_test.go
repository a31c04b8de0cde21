package main

import (
	"bytes"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/skald-saga/skald/internal/embedded"
	"github.com/skald-saga/skald/internal/testkit"
	"github.com/skald-saga/skald/migrations"
)

// P9: a database is dumped, with messages that were published and others that
// were not, and restored into a fresh cluster. The relay says what to do about
// it; then nothing is lost and nothing is published again that was published.
func TestADumpThatIsRestoredElsewhereLosesNothing(t *testing.T) {
	t.Parallel()
	db, broker := testkit.DatabaseURL(t), testkit.NATS(t).URL()
	old, s := testkit.Pool(t, db), stream(t, broker)
	// The ids of this cluster are to be ahead of the fresh one's.
	if _, err := old.Exec(t.Context(), `DO $$ BEGIN FOR i IN 1..10000 LOOP PERFORM pg_current_xact_id(); COMMIT; END LOOP; END $$`); err != nil {
		t.Fatal(err)
	}
	if _, err := old.Exec(t.Context(), `SELECT outbox_set_lanes(4)`); err != nil {
		t.Fatal(err)
	}
	relay := start(t, db, broker)
	var ids []string
	for n := range 30 {
		ids = append(ids, insert(t, old, fmt.Sprint(n), "s.published"))
	}
	awaitIDs(t, s, ids...)
	if code := relay.stop(t, 15); code != 0 {
		t.Fatalf("exit status %d", code)
	}
	for n := range 30 {
		ids = append(ids, insert(t, old, fmt.Sprint(n), "s.waits"))
	}

	fresh := testkit.Cluster(t)
	restore(t, db, fresh)
	pool := testkit.Pool(t, fresh.URL("postgres"))
	early := start(t, fresh.URL("postgres"), broker)
	if code := early.wait(t); code != 2 || !strings.Contains(early.stderr.String(), "relay rebase") {
		t.Errorf("before it was rebased: exit status %d", code)
	}
	ids = append(ids, insert(t, pool, "k", "s.since"))
	for _, step := range []struct {
		args   []string
		answer string
	}{
		{[]string{"rebase", "--dry-run"}, "30 published messages would be taken away, 31 published\n"},
		{[]string{"rebase"}, "30 published messages were taken away, 31 are published now\n"},
		{[]string{"rebase"}, "there is nothing to rebase\n"},
	} {
		if out := command(t, 0, append(step.args, "--database-url", fresh.URL("postgres"))...); out != step.answer {
			t.Errorf("%v: %q, want %q", step.args, out, step.answer)
		}
	}
	start(t, fresh.URL("postgres"), broker)
	ids = append(ids, insert(t, pool, "k", "s.new"))
	awaitIDs(t, s, ids...)
	if info := s.CachedInfo(); info.State.Msgs != uint64(len(ids)) {
		t.Errorf("%d messages are in the stream, want %d", info.State.Msgs, len(ids))
	}
}

// restore dumps a database and restores it into a cluster: with pg_dump and
// psql, or, where a build of Postgres comes without those, by hand.
func restore(t *testing.T, from string, to *embedded.Postgres) {
	t.Helper()
	bin, err := embedded.FindPostgres(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := exec.LookPath(filepath.Join(bin, "pg_dump")); err != nil {
		copyOutbox(t, testkit.Pool(t, from), to)
		return
	}
	dump := exec.CommandContext(t.Context(), filepath.Join(bin, "pg_dump"), "--dbname", plain(from))
	var sql, problems bytes.Buffer
	dump.Stdout, dump.Stderr = &sql, &problems
	if err := dump.Run(); err != nil {
		t.Fatalf("pg_dump: %v: %s", err, problems.String())
	}
	load := exec.CommandContext(t.Context(), filepath.Join(bin, "psql"), "--quiet", "-v", "ON_ERROR_STOP=1", "--dbname", plain(to.URL("postgres")))
	load.Stdin, load.Stderr = &sql, &problems
	if err := load.Run(); err != nil {
		t.Fatalf("psql: %v: %s", err, problems.String())
	}
}

// copyOutbox restores the rows of an outbox as a dump does.
func copyOutbox(t *testing.T, from *pgxpool.Pool, to *embedded.Postgres) {
	t.Helper()
	if err := migrations.Up(t.Context(), to.URL("postgres")); err != nil {
		t.Fatal(err)
	}
	pool := testkit.Pool(t, to.URL("postgres"))
	if _, err := pool.Exec(t.Context(), `SELECT outbox_set_lanes(4), setval('outbox_seq', 1000)`); err != nil {
		t.Fatal(err)
	}
	for table, columns := range map[string]string{
		"outbox":      "slot, seq, xid, key, msg_id, subject, headers, payload, created_at",
		"outbox_lane": "lane, snap_from, snap_to, pos, owner, epoch, lease_until",
		"outbox_ring": "only_row, current_slot, switched_at", "outbox_tick": "lane, taken_at, snap_from",
	} {
		var rows string
		if err := from.QueryRow(t.Context(), fmt.Sprintf(`SELECT json_agg(t)::text FROM (SELECT %s FROM %s) t`, columns, table)).Scan(&rows); err != nil {
			t.Fatal(err)
		}
		if _, err := pool.Exec(t.Context(), `DELETE FROM `+table); err != nil {
			t.Fatal(err)
		}
		if _, err := pool.Exec(t.Context(), fmt.Sprintf(`INSERT INTO %[1]s (%[2]s) SELECT %[2]s FROM json_populate_recordset(NULL::%[1]s, $1)`, table, columns), rows); err != nil {
			t.Fatal(err)
		}
	}
}

// plain leaves out of a URL what only our driver knows.
func plain(url string) string {
	cfg, err := pgxpool.ParseConfig(url)
	if err != nil {
		panic(err)
	}
	c := cfg.ConnConfig
	return fmt.Sprintf("host=%s port=%d user=%s password=%s dbname=%s", c.Host, c.Port, c.User, c.Password, c.Database)
}

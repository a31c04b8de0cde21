package outbox

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/skald-saga/skald/internal/testkit"
)

// A database that cannot be relayed is refused with all that is wrong with it.
func TestCheckRefusesADatabaseWithoutAnOutbox(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		change string
		want   []string
	}{
		"all is there":             {`SELECT 1`, nil},
		"saga tables do not count": {`DROP TABLE saga, saga_history, schema_migrations`, nil},
		"another sequence":         {`ALTER TABLE outbox ALTER seq SET DEFAULT 1; DROP SEQUENCE outbox_seq`, nil},
		"no tables":                {`DROP TABLE outbox, outbox_lane, outbox_dead`, []string{"no table outbox;", "no table outbox_lane;", "no table outbox_dead"}},
		"an older table":           {`ALTER TABLE outbox DROP COLUMN xid CASCADE; ALTER TABLE outbox DROP COLUMN key`, []string{"no column xid, key in outbox"}},
		"no lane":                  {`DELETE FROM outbox_lane`, []string{"writers use the lanes 0 to 0, outbox_lane has rows for []"}},
		"a cached sequence":        {`ALTER SEQUENCE outbox_seq CACHE 20`, []string{"CACHE 1"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			pool := testkit.Postgres(t)
			execute(t, pool, c.change)
			err := Check(t.Context(), pool)
			if len(c.want) == 0 && err != nil {
				t.Fatal(err)
			}
			for _, want := range c.want {
				if !errors.Is(err, ErrNoOutbox) || !strings.Contains(err.Error(), want) {
					t.Errorf("got %v, want %q", err, want)
				}
			}
		})
	}
}

// The relay needs no more rights than docs/relay.md says, and names those that
// it lacks.
func TestTheRelayNeedsFewRights(t *testing.T) {
	t.Parallel()
	url := testkit.DatabaseURL(t)
	admin := testkit.Pool(t, url)
	role := newRole(t, admin)
	pool := testkit.Pool(t, url+"&role="+role)
	if err := Check(t.Context(), pool); !errors.Is(err, ErrNoOutbox) || !strings.Contains(err.Error(), "no right to SELECT on outbox; no right to SELECT, TRUNCATE on outbox_0;") {
		t.Errorf("without rights: got %v", err)
	}
	if err := Check(t.Context(), pool); err == nil || !strings.Contains(err.Error(), "no right to SELECT, UPDATE on outbox_ring; no right to SELECT, INSERT, DELETE on outbox_tick; no right to SELECT, UPDATE on outbox_lane; no right to SELECT, INSERT, UPDATE, DELETE on outbox_relay; no right to SELECT, INSERT, DELETE on outbox_parked; no right to SELECT, INSERT on outbox_dead") {
		t.Errorf("without rights: got %v", err)
	}
	execute(t, admin, strings.ReplaceAll(documented(t, "rights of the relay"), "TO relay", "TO "+role))
	if err := Check(t.Context(), pool); err != nil {
		t.Errorf("with the rights: %v", err)
	}
	insert(t, admin, "k", "good")
	insert(t, admin, "k", "bad")
	relay := newStepper(t, pool)
	relay.broker.answer = func(rows []Row) []Result {
		return append(make([]Result, len(rows)-1), Result{Err: errAway, Poison: true})
	}
	relay.drain(t)
	if err := relay.flush(t.Context()); err != nil {
		t.Error(err)
	}
	wantSubjects(t, "published", relay.broker.subjects(), "good")
	house := newRing(t, pool)
	house.pool = admin
	house.publishAll(t, relay)
	house.later(t)
	house.pool = pool
	relay.moves++ // noted again, by the role
	house.publishAll(t, relay)
	house.try(t, turned)
}

// newRole makes a role without rights, for one test.
func newRole(t *testing.T, admin *pgxpool.Pool) string {
	t.Helper()
	role := "role_" + ask[string](t, admin, `SELECT current_database()`)
	execute(t, admin, `CREATE ROLE `+role)
	t.Cleanup(func() {
		if _, err := admin.Exec(context.Background(), `DROP OWNED BY `+role+`; DROP ROLE `+role); err != nil {
			t.Error(err)
		}
	})
	return role
}

// A restored dump has transaction ids of another cluster. Silence would look
// like an empty outbox, so the relay says so; the statement in docs/relay.md
// mends it.
func TestADatabaseThatWasRestoredFromADumpIsNoticed(t *testing.T) {
	t.Parallel()
	for name, passes := range map[string]int{"a window was open": 1, "no window was open": 4} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			pool := testkit.Postgres(t)
			relay := newStepper(t, pool, limits{rows: 2, bytes: 1000, list: 2})
			want := numbered("s", 5)
			for _, subject := range want {
				insert(t, pool, "k", subject)
			}
			for range passes {
				relay.pass(t)
			}
			want = want[len(relay.broker.taken):]
			insert(t, pool, "k", "not yet read")
			const from, to = `SELECT snap_from::text FROM outbox_lane`, `SELECT coalesce(snap_to::text, '') FROM outbox_lane`
			execute(t, pool, `UPDATE outbox_lane SET snap_from = $1, snap_to = nullif($2, '')::pg_snapshot`,
				later(t, ask[string](t, pool, from)), later(t, ask[string](t, pool, to)))
			execute(t, pool, `UPDATE outbox SET xid = (xid::text::bigint + 1000000)::text::xid8`)

			next := newStepper(t, pool)
			if _, err := next.Relay.pass(t.Context(), next.reader); !errors.Is(err, ErrRestored) {
				t.Fatalf("got %v, want %v", err, ErrRestored)
			}
			if err := Check(t.Context(), pool); !errors.Is(err, ErrRestored) {
				t.Errorf("at the start: got %v, want %v", err, ErrRestored)
			}
			insert(t, pool, "k", "since the restore")
			part := begin(t, pool)
			execute(t, part, `SAVEPOINT s`)
			insert(t, part, "k", "in a savepoint")
			commit(t, part)
			look, err := Rebase(t.Context(), pool, true)
			if err != nil || !look.Needed || look.Waiting != int64(len(want)+3) || look.Published != int64(5-len(want)) {
				t.Errorf("it would do %+v (%v)", look, err)
			}
			queries := &tracer{}
			queries.before(beginHere, func() { ask[string](t, pool, `SELECT pg_current_xact_id()::text`) }) // ends before the rebase does
			if done, err := Rebase(t.Context(), tracedPool(t, pool.Config().ConnString(), queries), false); err != nil || done != look {
				t.Errorf("it did %+v (%v), and would have done %+v", done, err, look)
			}
			if again, err := Rebase(t.Context(), pool, false); err != nil || again != (Rebased{}) {
				t.Errorf("the second time it did %+v (%v)", again, err)
			}
			if err := Check(t.Context(), pool); err != nil {
				t.Error(err)
			}
			insert(t, pool, "k", "new")
			next = newStepper(t, pool)
			next.drain(t)
			wantSubjects(t, "published when mended", next.broker.subjects(), append(want, "not yet read", "since the restore", "in a savepoint", "new")...)
			if n := ask[int](t, pool, `SELECT count(*) FROM outbox WHERE xid >= pg_snapshot_xmax(pg_current_snapshot())`); n != 0 {
				t.Errorf("%d rows of the future are left", n)
			}
		})
	}
}

// A writer needs the rights that docs/relay.md says.
func TestAWriterNeedsFewRights(t *testing.T) {
	t.Parallel()
	url := testkit.DatabaseURL(t)
	admin := testkit.Pool(t, url)
	role := newRole(t, admin)
	execute(t, admin, strings.ReplaceAll(documented(t, "rights of a writer"), "TO writer", "TO "+role))
	execute(t, admin, `CREATE TABLE invoices (id text, status text); GRANT ALL ON invoices TO `+role)
	execute(t, testkit.Pool(t, url+"&role="+role+"&default_query_exec_mode=simple_protocol"), documented(t, "a writer"))
	relay := newStepper(t, admin)
	relay.drain(t)
	wantSubjects(t, "published", relay.broker.subjects(), "billing.invoice.paid")
}

// What docs/relay.md says for keeping house loses nothing.
func TestKeepingHouseLosesNothing(t *testing.T) {
	t.Parallel()
	pool := testkit.Postgres(t)
	relay := newStepper(t, pool, limits{rows: 2, bytes: 1000, list: 10})
	open := begin(t, pool)
	insert(t, open, "open", "open")
	insert(t, pool, "k", "old")
	relay.drain(t)
	for _, subject := range numbered("s", 4) {
		insert(t, pool, "k", subject)
	}
	relay.pass(t) // s.2 and s.3 are still to come
	commit(t, open)
	execute(t, pool, `INSERT INTO outbox_dead SELECT 42, 0, 'k', gen_random_uuid(), 'mended', '{}', '', now(), 'too large'`)
	if _, err := Redrive(t.Context(), pool, []int64{42}); err != nil {
		t.Fatal(err)
	}
	if n := ask[int](t, pool, `SELECT count(*) FROM outbox_dead`); n != 0 {
		t.Error("the dead letter is still there")
	}
	relay.drain(t)
	wantSubjects(t, "published", relay.broker.subjects(), "old", "s.0", "s.1", "s.2", "s.3", "open", "mended")
}

// later shifts the ids of a snapshot.
func later(t *testing.T, snapshot string) string {
	return regexp.MustCompile(`\d+`).ReplaceAllStringFunc(snapshot, func(id string) string {
		n, err := strconv.ParseInt(id, 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		return strconv.FormatInt(n+1_000_000, 10)
	})
}

// documented returns the statement of docs/relay.md that begins with a comment.
func documented(t *testing.T, comment string) string {
	b, err := os.ReadFile(filepath.Join(testkit.Root(t), "docs", "relay.md"))
	if err != nil {
		t.Fatal(err)
	}
	_, sql, ok := strings.Cut(string(b), "```sql\n-- "+comment)
	sql, _, ended := strings.Cut(sql, "```")
	if !ok || !ended {
		t.Fatalf("docs/relay.md has no SQL that begins with %q", comment)
	}
	return "--" + sql
}

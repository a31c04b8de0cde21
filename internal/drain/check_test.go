package drain

import (
	"context"
	"errors"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/skald-saga/skald/internal/testkit"
)

// Mistakes in the file are found without a database, all of them at once.
func TestMistakesInAMappingAreNamed(t *testing.T) {
	t.Parallel()
	const good = "table: t\nid: id\nsubject: s\npayload: p\nsettle: {delete: true}\n"
	for name, c := range map[string]struct{ text, want string }{
		"nothing":                  {"", "empty"},
		"no YAML":                  {"table: [", "line 1"},
		"an unknown field":         {good + "keys: k\n", "keys not found"},
		"a field of another kind":  {"table: [a]\n", "line 1: cannot unmarshal"},
		"no table, and no id":      {"subject: s\npayload: p\nsettle: {delete: true}\n", "id: must be given; table: must be given"},
		"three names":              {strings.Replace(good, "table: t", "table: a.b.c", 1), "table:"},
		"no settlement":            {strings.Replace(good, "settle: {delete: true}", "", 1), "settle:"},
		"two settlements":          {strings.Replace(good, "true}", "true, set: {a: now()}}", 1), "settle:"},
		"a mark without a pending": {strings.Replace(good, "delete: true", "set: {a: now()}", 1), "pending:"},
		"dead without a pending":   {good + "dead: {set: {a: now()}}\n", "pending:"},
		"an open brace":            {strings.Replace(good, "subject: s", "subject: s.{a", 1), "subject: want {column}"},
		"a closing brace":          {strings.Replace(good, "subject: s", "subject: s.a}", 1), "subject: a } without a {"},
		"an empty column":          {good + "header: {x: \"{}\"}\n", "header.x: want {column}"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if m, err := Parse([]byte(c.text)); !errors.Is(err, ErrMistaken) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%+v, %v; want %q", m, err, c.want)
			}
		})
	}
}

// What does not fit the table is found before anything is published.
func TestMistakesAboutATableAreNamed(t *testing.T) {
	t.Parallel()
	pool := testkit.Postgres(t)
	execute(t, pool, Schema)
	execute(t, pool, `CREATE TABLE t (id int PRIMARY KEY, twice int, p bytea, n int, h text, at timestamptz, done boolean NOT NULL DEFAULT false);
		CREATE VIEW v AS SELECT * FROM t; CREATE INDEX ON t (twice)`)
	const good = "table: t\nid: id\nsubject: s.{n}\npayload: p\nheaders: h\ntime: at\npending: NOT done\nsettle: {set: {done: \"true\"}}\ndead: {set: {done: \"true\"}}\n"
	check := func(text string) (string, error) {
		warnings, err := parse(t, text).Check(t.Context(), pool)
		return strings.Join(warnings, "\n"), err
	}
	if warnings, err := check(good); err != nil || warnings != "" {
		t.Fatalf("%q, %v", warnings, err)
	}
	for name, c := range map[string]struct{ old, new, want string }{
		"no such table":       {"table: t", "table: nothing", "table: there is no nothing"},
		"no such schema":      {"table: t", "table: nowhere.t", "table: there is no nowhere.t"},
		"a view":              {"table: t", "table: v", "is not a table"},
		"no such column":      {"{n}", "{m}", "subject: t has no column m"},
		"an id of many rows":  {"id: id", "id: twice", "id: column twice has no unique index"},
		"a number as payload": {"payload: p", "payload: n", "payload: column n is integer, want bytea"},
		"bytes as headers":    {"headers: h", "headers: p", "headers: column p is bytea"},
		"a number as time":    {"time: at", "time: n", "time: column n is integer"},
		"a bad condition":     {"NOT done", "NOT finished", `pending: column "finished" does not exist`},
		"half a condition":    {"NOT done", "NOT (done", "pending: syntax error"},
		"no condition":        {"NOT done", "n + 1", "pending: argument of WHERE must be type boolean"},
		"a bad mark":          {"set: {done: \"true\"}", "set: {done: \"now()\"}", "settle: column \"done\" is of type boolean"},
		"a mark elsewhere":    {"set: {done: \"true\"}", "set: {over: \"true\"}", "settle: t has no column over"},
	} {
		t.Run(name, func(t *testing.T) {
			text := strings.Replace(good, c.old, c.new, 1)
			if _, err := check(text); text == good || !errors.Is(err, ErrMistaken) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%v; want %q", err, c.want)
			}
		})
	}
	execute(t, pool, `DROP TABLE relay_drain`)
	if _, err := check(good); !errors.Is(err, ErrMistaken) || !strings.Contains(err.Error(), "relay install --drain") {
		t.Errorf("without a table of leases: %v", err)
	}
}

// The role needs no more rights than the documentation says, and each that it
// lacks is named.
func TestMissingRightsAreNamed(t *testing.T) {
	t.Parallel()
	admin := testkit.Postgres(t)
	m := shapes["state in words"].make(t, admin)
	role := strings.ToLower("drain_" + strings.ReplaceAll(t.Name(), "/", "_") + admin.Config().ConnConfig.Database)
	execute(t, admin, `CREATE ROLE `+quote(role))
	t.Cleanup(func() {
		_, _ = admin.Exec(context.Background(), `DROP OWNED BY `+quote(role)+`; DROP ROLE `+quote(role))
	})
	cfg := admin.Config().Copy()
	cfg.ConnConfig.RuntimeParams["role"] = role
	pool, err := pgxpool.NewWithConfig(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	grants := map[string]string{
		"SELECT column event_no":             `GRANT SELECT ON events TO `,
		"UPDATE column state":                `GRANT UPDATE (state, error) ON events TO `,
		"SELECT, INSERT and UPDATE on relay": `GRANT SELECT, INSERT, UPDATE ON relay_drain TO `,
	}
	for _, missing := range slices.Sorted(maps.Keys(grants)) {
		if _, err := m.Check(t.Context(), pool); !errors.Is(err, ErrMistaken) || !strings.Contains(err.Error(), missing) {
			t.Errorf("%v; want %q", err, missing)
		}
		execute(t, admin, grants[missing]+quote(role))
	}
	if _, err := m.Check(t.Context(), pool); err != nil {
		t.Error(err)
	}
	m.Settle = Settle{Delete: true}
	if _, err := m.Check(t.Context(), pool); !errors.Is(err, ErrMistaken) || !strings.Contains(err.Error(), "DELETE") {
		t.Errorf("without the right to delete: %v", err)
	}
}

// What works badly is said, and drained.
func TestWeaknessesAreSaid(t *testing.T) {
	t.Parallel()
	pool := testkit.Postgres(t)
	execute(t, pool, Schema)
	database := quote(pool.Config().ConnConfig.Database)
	for _, sql := range []string{
		`CREATE TABLE t (id uuid PRIMARY KEY, at timestamptz DEFAULT now(), p jsonb)`,
		`CREATE FUNCTION shout() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM pg_notify(''t'', ''''); RETURN NEW; END'`,
		`CREATE TRIGGER shouts AFTER INSERT ON t FOR EACH ROW EXECUTE FUNCTION shout()`,
		`ALTER DATABASE ` + database + ` SET synchronous_commit = off`,
	} {
		execute(t, pool, sql)
	}
	m := parse(t, "table: t\nid: id\norder: at\nsubject: s\npayload: p\nsettle: {delete: true}\n")
	warnings, err := m.Check(t.Context(), pool)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"no index begins with column at", "column at may be null", "trigger shouts uses NOTIFY", "synchronous_commit is off for database"} {
		if !slices.ContainsFunc(warnings, func(w string) bool { return strings.Contains(w, want) }) {
			t.Errorf("nothing of %q in %q", want, warnings)
		}
	}
	if len(warnings) != 4 {
		t.Errorf("%d warnings: %q", len(warnings), warnings)
	}
	execute(t, pool, `CREATE INDEX ON t (at); ALTER TABLE t ALTER at SET NOT NULL; ALTER TABLE t DISABLE TRIGGER shouts`)
	execute(t, pool, `ALTER DATABASE `+database+` RESET synchronous_commit`)
	if warnings, err := m.Check(t.Context(), pool); err != nil || len(warnings) > 0 {
		t.Errorf("%q, %v", warnings, err)
	}
}

// The page's files and SQL work as they are printed.
func TestTheDocumentationIsRight(t *testing.T) {
	t.Parallel()
	b, err := os.ReadFile(filepath.Join(testkit.Root(t), "docs", "relay.md"))
	if err != nil {
		t.Fatal(err)
	}
	page := string(b)
	_, text, found := strings.Cut(page, "```yaml\n# drain.yaml")
	text, _, closed := strings.Cut(text, "```")
	if !found || !closed {
		t.Fatal("no drain.yaml")
	}
	m := parse(t, text)
	pool := testkit.Postgres(t)
	execute(t, pool, Schema)
	execute(t, pool, shapes["uuid and time, deleted"].table+`; ALTER TABLE outboxevent ADD COLUMN state text NOT NULL DEFAULT 'new', ADD COLUMN error text`)
	if warnings, err := m.Check(t.Context(), pool); err != nil || len(warnings) > 0 {
		t.Errorf("%q, %v", warnings, err)
	}
	if !strings.Contains(page, strings.TrimSpace(Schema)) {
		t.Error("the page shows another table relay_drain")
	}
}

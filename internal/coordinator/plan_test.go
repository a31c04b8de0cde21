package coordinator

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/skald-saga/skald/internal/saga"
	"github.com/skald-saga/skald/internal/testkit"
)

// The plans of lists over many sagas, of which nearly all have ended. No filter
// reads the table of sagas from end to end, and none looks at more than its
// share, however rare what it asks for. The plans are in the log: go test -v
// -run TestNoListReadsAllSagas ./internal/coordinator.
func TestNoListReadsAllSagas(t *testing.T) {
	t.Parallel()
	const total, share = 60_000, 2_000 // looked at by a page, instead of lookAt
	pool := testkit.Postgres(t)
	for _, sql := range []string{
		`INSERT INTO definition (name, version, digest, source, created_at)
		 SELECT 'order', v, 'd' || v, '{}', now() FROM generate_series(1, 20) v`,
		`INSERT INTO saga (id, definition_id, version, status, state, input, command_xid, wake_at, created_at, updated_at)
		 SELECT (lpad(to_hex(1767225600000 + n), 12, '0') || '70008000' || lpad(to_hex(n), 12, '0'))::uuid, 1 + n % 20, 3,
		        CASE WHEN n % 6000 = 0 THEN 'stuck' WHEN n % 600 = 0 THEN 'running' ELSE 'completed' END,
		        '{"status":"completed","steps":[{"s":"succeeded"},{"s":"running","e":{"code":"c"}}]}', '{"n": 1}', pg_current_xact_id(), now(),
		        to_timestamp(1767225600 + n / 1000.0), to_timestamp(1767225600 + n / 1000.0)
		 FROM generate_series(1, 60000) n`,
		`INSERT INTO saga_timer (due_at, saga_id) SELECT now(), id FROM saga WHERE status = 'running'`,
		`INSERT INTO saga_attribute (saga_id, name, value) SELECT id, 'key', 'k-' || (row_number() OVER () % 1000) FROM saga`,
		`VACUUM ANALYZE`,
	} {
		if _, err := pool.Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
	}
	var middle uuid.UUID
	if err := pool.QueryRow(t.Context(), `SELECT id FROM saga ORDER BY id OFFSET 30000 LIMIT 1`).Scan((*[16]byte)(&middle)); err != nil {
		t.Fatal(err)
	}
	at := time.UnixMilli(1767225600000 + 30_000)
	for name, f := range map[string]SagaFilter{
		"all":                      {},
		"all, from the middle":     {Before: middle},
		"status=completed":         {Statuses: []saga.Status{saga.Completed}},
		"status=abandoned":         {Statuses: []saga.Status{saga.Abandoned}},
		"status=stuck":             {Statuses: []saga.Status{saga.Stuck}},
		"status=running,stuck":     {Statuses: []saga.Status{saga.Running, saga.Stuck}},
		"definition=order&version": {Definition: "order", Version: 7},
		"definition=nothing":       {Definition: "nothing"},
		"step":                     {Step: "b"},
		"error_code":               {ErrorCode: "x"},
		"key":                      {Found: []saga.Attribute{ByKey("k-7")}},
		"key and label":            {Found: []saga.Attribute{ByKey("k-7"), ByLabel("team", "a")}},
		"key that nobody has":      {Found: []saga.Attribute{ByKey("none")}},
		"created":                  {Created: Span{From: at, To: at.Add(time.Second)}, Statuses: []saga.Status{saga.Abandoned}},
		"updated":                  {Updated: Span{From: at, To: at.Add(time.Second)}},
	} {
		f.Limit = 50
		steps := stepPlaces{definitions: []int32{1, 2}, steps: []int32{1, 1}}
		q := f.list(steps, share)
		text, looked := explain(t, pool, q)
		t.Logf("%s: looks at %d\n%s", name, looked, text)
		if strings.Contains(text, "Seq Scan on saga ") {
			t.Errorf("%s reads all sagas:\n%s", name, text)
		}
		if looked > 2*share { // once in an index, once in the table
			t.Errorf("%s looks at %d; %d sagas may be looked at, of %d:\n%s", name, looked, share, total, text)
		}
	}
}

// explain runs a query as List does, and returns its plan and how many sagas,
// or entries of an index on sagas, it looked at.
func explain(t *testing.T, pool *pgxpool.Pool, q query) (text string, looked int) {
	t.Helper()
	tx, err := pool.BeginTx(t.Context(), pgx.TxOptions{AccessMode: pgx.ReadOnly})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = tx.Rollback(t.Context()) }()
	if _, err := tx.Exec(t.Context(), oneByOne); err != nil {
		t.Fatal(err)
	}
	var plan []struct {
		Plan map[string]any
	}
	var b []byte
	if err := tx.QueryRow(t.Context(), `EXPLAIN (ANALYZE, TIMING off, FORMAT json) `+q.text, q.args...).Scan(&b); err != nil {
		t.Fatalf("%v: %s", err, q.text)
	}
	if err := json.Unmarshal(b, &plan); err != nil {
		t.Fatal(err)
	}
	var lines []string
	outline(plan[0].Plan, "", &lines, &looked)
	return strings.Join(lines, "\n"), looked
}

// outline is a plan with a line for each node.
func outline(node map[string]any, indent string, lines *[]string, looked *int) {
	line := indent + fmt.Sprint(node["Node Type"])
	if index := node["Index Name"]; index != nil {
		line += fmt.Sprint(" using ", index)
	}
	if table := node["Relation Name"]; table != nil {
		line += fmt.Sprint(" on ", table, " ", node["Alias"])
	}
	number := func(name string) float64 { n, _ := node[name].(float64); return n }
	rows := number("Actual Loops") * (number("Actual Rows") + number("Rows Removed by Filter"))
	if node["Relation Name"] == "saga" {
		*looked += int(rows)
	}
	*lines = append(*lines, fmt.Sprintf("%s (%.0f)", line, rows))
	children, _ := node["Plans"].([]any)
	for _, child := range children {
		if c, ok := child.(map[string]any); ok {
			outline(c, indent+"  ", lines, looked)
		}
	}
}

// A page that has looked at its share and found nothing says where to go on,
// and nothing is passed over.
func TestAPageThatLookedAtEnoughSaysWhereToGoOn(t *testing.T) {
	t.Parallel()
	pool := testkit.Postgres(t)
	const sql = `
		INSERT INTO saga (id, definition_id, version, status, state, input, command_xid, wake_at, created_at, updated_at)
		SELECT (lpad(to_hex(1767225600000 + n), 12, '0') || '70008000' || lpad(to_hex(n), 12, '0'))::uuid, 1, 3,
		       CASE WHEN n IN (7, 11000, 24000) THEN 'abandoned' ELSE 'completed' END, '{"steps":[]}', '{}', pg_current_xact_id(), now() AS wake_at, at, at
		FROM generate_series(1, 25000) n, now() AS at`
	const definition = `INSERT INTO definition (name, version, digest, source, created_at) VALUES ('order', 1, 'd', '{}', now())`
	for _, sql := range []string{definition, sql} {
		if _, err := pool.Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
	}
	c := New(Config{Pool: pool})
	f := SagaFilter{Statuses: []saga.Status{saga.Abandoned}, Limit: 2}
	var pages []int
	for {
		page, next, err := c.List(t.Context(), f)
		if err != nil {
			t.Fatal(err)
		}
		pages = append(pages, len(page))
		if f.Before = next; next == uuid.Nil {
			break
		}
	}
	if fmt.Sprint(pages) != "[1 1 1]" {
		t.Errorf("the pages hold %v of three sagas", pages)
	}
}

package main

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"testing"
	"time"

	"github.com/skald-saga/skald/internal/testkit"
)

// What docs/relay.md says of metrics is there, and says what happened.
func TestMetricsTellWhatHappens(t *testing.T) {
	t.Parallel()
	db, broker := testkit.DatabaseURL(t), testkit.NATS(t).URL()
	pool, s := testkit.Pool(t, db), stream(t, broker)
	tx, err := pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = tx.Rollback(t.Context()) })
	var id string
	if err := tx.QueryRow(t.Context(), `SELECT pg_current_xact_id()::text`).Scan(&id); err != nil { // a writer that stays
		t.Fatal(err)
	}
	p := start(t, db, broker)
	admin := p.admin(t)
	good := insert(t, pool, "good", "s.good")
	insert(t, pool, "poison", "s.*")
	insert(t, pool, "blocked", "nobody.takes.this")
	awaitIDs(t, s, good)
	awaitMetrics(t, admin, map[string]float64{
		`outbox_offered_total{outcome="acknowledged"}`: 1, `outbox_offered_total{outcome="poison"}`: 1, `outbox_offered_total{outcome="blocked"}`: 1,
		"outbox_page_rows_count": 1, "outbox_dead_rows": 1, "outbox_ring_bytes": 8192, "outbox_parked_rows": 1,
		"outbox_oldest_writer_seconds": 0.001, "outbox_oldest_writer_transactions": 1, "outbox_oldest_snapshot_transactions": 1,
	})
	command(t, 0, "rewind", "--since", "10m", "--database-url", db)
	awaitMetrics(t, admin, map[string]float64{`outbox_offered_total{outcome="duplicate"}`: 1})

	page, err := os.ReadFile(filepath.Join(testkit.Root(t), "docs", "relay.md"))
	if err != nil {
		t.Fatal(err)
	}
	documented := regexp.MustCompile("(?m)^\\| (`outbox_[^|]*) \\|").FindAllStringSubmatch(string(page), -1)
	_, body := get(t, admin+"/metrics")
	found := 0
	for _, row := range documented {
		for _, name := range regexp.MustCompile("`(outbox_[a-z_]+)").FindAllStringSubmatch(row[1], -1) {
			found++
			if !regexp.MustCompile(`(?m)^` + name[1] + `[_ {]`).MatchString(body) {
				t.Errorf("there is no %s", name[1])
			}
		}
	}
	if found < 15 {
		t.Errorf("only %d metrics found in the documentation", found)
	}
}

// awaitMetrics waits until each metric has at least a value.
func awaitMetrics(t testing.TB, admin string, least map[string]float64) {
	t.Helper()
	testkit.Eventually(t, "metrics", 30*time.Second, func() (bool, string) {
		_, body := get(t, admin+"/metrics")
		for name, want := range least {
			m := regexp.MustCompile(`(?m)^` + regexp.QuoteMeta(name) + ` (.*)$`).FindStringSubmatch(body)
			if m == nil {
				return false, name + " is not there:\n" + body
			}
			if v, err := strconv.ParseFloat(m[1], 64); err != nil || v < want {
				return false, fmt.Sprintf("%s is %s, want at least %v", name, m[1], want)
			}
		}
		return true, ""
	})
}

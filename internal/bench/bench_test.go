package bench_test

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/procfs"

	"github.com/skald-saga/skald/internal/bench"
	"github.com/skald-saga/skald/internal/testkit"
)

// short is a run that says nothing about speed and goes through everything.
func short(t *testing.T) bench.Config {
	t.Helper()
	return bench.Config{
		Server: testkit.Build(t, "cmd/server"), Relay: testkit.Build(t, "cmd/relay"), Rate: 20, Clients: 8, Rounds: 1,
		For: 200 * time.Millisecond, RateFor: 500 * time.Millisecond, IdleFor: 200 * time.Millisecond,
		Shop: true, Echo: true, Finished: 30, Open: 20,
	}
}

// tempDir is where the bench may leave something, and must not.
func tempDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "bench-test-") //nolint:usetesting // a folder of t's is closed to Postgres, which may run as another user
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("TMPDIR", dir)
	return dir
}

func nothingIsLeft(t *testing.T, dir string) {
	t.Helper()
	left, err := os.ReadDir(dir)
	if err != nil || len(left) > 0 {
		t.Errorf("files are left behind: %v, %v", left, err)
	}
	all, err := procfs.AllProcs()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range all {
		if st, err := p.Stat(); err == nil && st.PPID == os.Getpid() {
			t.Errorf("process %d is left behind: %s", p.PID, st.Comm)
		}
	}
}

func TestARunMeasuresEverythingAndLeavesNothingBehind(t *testing.T) {
	cfg := short(t)
	dir := tempDir(t)
	var out bytes.Buffer
	report, err := bench.Run(t.Context(), cfg, &out)
	if err != nil {
		t.Fatalf("%v\n%s", err, &out)
	}
	nothingIsLeft(t, dir)
	var b bytes.Buffer
	if err := report.Write(&b); err != nil {
		t.Fatal(err)
	}
	var doc map[string]any
	if err := json.Unmarshal(b.Bytes(), &doc); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{
		"saturation.sagas_per_second", "saturation.limit_per_second", "saturation.ratio", "saturation.p50_ms", "saturation.p99_ms",
		"failing.sagas_per_second", "failing.limit_per_second", "failing.ratio",
		"low_rate.rate", "low_rate.p50_ms", "low_rate.p99_ms", "low_rate.floor_p50_ms", "low_rate.floor_p99_ms",
		"half_rate.rate", "half_rate.p50_ms", "half_rate.p90_ms", "half_rate.p99_ms", "half_rate.max_ms",
		"cost.statements_per_saga", "cost.wal_bytes_per_saga", "cost.limit_wal_bytes_per_saga", "cost.cpu_us_per_saga.server",
		"cost.cpu_us_per_saga.total", "memory.server_rss_mb", "memory.relay_rss_mb",
		"shop.sagas_per_second", "shop.ratio_to_echo", "loaded.ratio", "loaded.finished", "loaded.open", "old_snapshot.ratio",
		"machine.cpus", "settings.clients", "settings.slice_seconds",
	} {
		if got := at(doc, path); got <= 0 {
			t.Errorf("%s is %v, want more than 0", path, got)
		}
	}
	// Nothing may happen in so short a time.
	for _, path := range []string{"cost.transactions_per_saga", "idle.queries_per_second", "idle.cpu_cores", "cost.cpu_us_per_saga.relay",
		"cost.cpu_us_per_saga.participants", "cost.cpu_us_per_saga.nats", "cost.cpu_us_per_saga.postgres", "cost.cpu_us_per_saga.load_generator"} {
		if got := at(doc, path); got < 0 {
			t.Errorf("%s is %v, want 0 or more", path, got)
		}
	}
	s := report.Settings
	if s.Fsync != "on" || s.SynchronousCommit != "on" || s.JetStreamSync == "" {
		t.Errorf("it was not durable, or does not say so: %+v", s)
	}
	if l := report.LowRate; l.P50MS > l.P99MS || l.FloorP50MS > l.FloorP99MS || l.P99MS > l.MaxMS {
		t.Errorf("the quantiles are out of order: %+v", l)
	}
	for _, says := range []string{"turn 1 of 1", "fsync on", "JetStream syncs"} {
		if !strings.Contains(out.String(), says) {
			t.Errorf("it does not say %q:\n%s", says, &out)
		}
	}
}

// at returns the number at a path; -1 if there is none.
func at(doc map[string]any, path string) float64 {
	first, rest, more := strings.Cut(path, ".")
	if more {
		inner, ok := doc[first].(map[string]any)
		if !ok {
			return -1
		}
		return at(inner, rest)
	}
	if n, ok := doc[first].(float64); ok {
		return n
	}
	return -1
}

func TestARunThatFailsSaysWhoDiedAndLeavesNothingBehind(t *testing.T) {
	cfg := short(t)
	cfg.Relay = filepath.Join(t.TempDir(), "relay")
	if err := os.WriteFile(cfg.Relay, []byte("#!/bin/sh\necho the relay has no wish to\nexit 3\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	dir := tempDir(t)
	_, err := bench.Run(t.Context(), cfg, &bytes.Buffer{})
	if err == nil || !strings.Contains(err.Error(), "the relay has no wish to") {
		t.Errorf("it says %v", err)
	}
	nothingIsLeft(t, dir)
}

func TestTheScaleIsATableAndAPlot(t *testing.T) {
	cfg := short(t)
	dir := tempDir(t)
	var out, svg bytes.Buffer
	report, err := bench.RunScale(t.Context(), cfg, &out)
	if err != nil {
		t.Fatalf("%v\n%s", err, &out)
	}
	nothingIsLeft(t, dir)
	points := map[string][]string{}
	for _, p := range report.Scale {
		points[p.Series] = append(points[p.Series], p.X)
		if p.Steps < p.Sagas {
			t.Errorf("%s %s: %v steps a second, %v sagas", p.Series, p.X, p.Steps, p.Sagas)
		}
	}
	for series, want := range map[string]string{
		"steps": "1 3 10 50", "payload, KB": "0.2 2 20", "servers": "1 2", "clients": "1 4", "batch of the limit program": "1 4 16 64 256",
	} {
		if got := strings.Join(points[series], " "); got != want {
			t.Errorf("%s: %s, want %s", series, got, want)
		}
		if !strings.Contains(out.String(), series) {
			t.Errorf("the table does not have %s:\n%s", series, &out)
		}
	}
	if err := report.Plot(&svg); err != nil {
		t.Fatal(err)
	}
	if got := strings.Count(svg.String(), `fill="#4477aa"`); got != len(report.Scale) {
		t.Errorf("the plot has %d bars, want %d", got, len(report.Scale))
	}
}

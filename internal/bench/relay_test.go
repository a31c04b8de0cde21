package bench_test

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/skald-saga/skald/internal/bench"
	"github.com/skald-saga/skald/internal/testkit"
)

// shortRelay is a run that says nothing about speed and goes through everything.
func shortRelay(t *testing.T) bench.RelayConfig {
	t.Helper()
	return bench.RelayConfig{
		Server: testkit.Build(t, "cmd/server"), Relay: testkit.Build(t, "cmd/relay"), Rows: 700, Small: 600, Large: 1500, Rounds: 1,
		Rate: 20, RateFor: 500 * time.Millisecond, SteadyFor: 200 * time.Millisecond, Quick: true,
	}
}

func TestARelayRunMeasuresEverythingAndLeavesNothingBehind(t *testing.T) {
	cfg := shortRelay(t)
	dir := tempDir(t)
	var out, b bytes.Buffer
	report, err := bench.RunRelay(t.Context(), cfg, &out)
	if err != nil {
		t.Fatalf("%v\n%s", err, &out)
	}
	nothingIsLeft(t, dir)
	if err := report.Write(&b); err != nil {
		t.Fatal(err)
	}
	var doc map[string]any
	if err := json.Unmarshal(b.Bytes(), &doc); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{
		"throughput.messages_per_second", "throughput.limit_per_second", "throughput.ratio_to_limit", "throughput.steady_written_per_second",
		"latency.p50_ms", "latency.p99_ms", "latency.floor_p50_ms", "latency.floor_p99_ms", "latency.ratio_to_floor", "latency.without_wake_ups_p99_ms",
		"held_snapshot.ratio", "held_snapshot.messages_per_second_without", "two_relays.ratio", "two_relays.messages_per_second_without",
		"memory.small_backlog_mb", "memory.large_backlog_mb", "memory.ratio", "machine.cpus", "settings.rows_per_turn", "took_seconds",
	} {
		if got := at(doc, path); got <= 0 {
			t.Errorf("%s is %v, want more than 0", path, got)
		}
	}
	s := report.Settings
	if s.Fsync != "on" || s.SynchronousCommit != "on" || s.JetStreamSync == "" {
		t.Errorf("it was not durable, or does not say so: %+v", s)
	}
	if l := report.Latency; l.P50MS > l.P99MS || l.FloorP50MS > l.FloorP99MS {
		t.Errorf("the quantiles are out of order: %+v", l)
	}
	for _, says := range []string{"turn 1 of 1", "fsync on", "JetStream syncs", "small backlogs"} {
		if !strings.Contains(out.String(), says) {
			t.Errorf("it does not say %q:\n%s", says, &out)
		}
	}
}

func TestARelayRunThatFailsSaysWhyAndLeavesNothingBehind(t *testing.T) {
	cfg := shortRelay(t)
	cfg.Relay = filepath.Join(t.TempDir(), "relay")
	if err := os.WriteFile(cfg.Relay, []byte("#!/bin/sh\necho the relay has no wish to\nexit 3\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	dir := tempDir(t)
	_, err := bench.RunRelay(t.Context(), cfg, &bytes.Buffer{})
	if err == nil || !strings.Contains(err.Error(), "the relay has no wish to") {
		t.Errorf("it says %v", err)
	}
	nothingIsLeft(t, dir)
}

package bench

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"math"
	"slices"
	"strings"
	"time"
)

// Report is the outcome of a run. Parts that were not measured are left out.
type Report struct {
	At        time.Time `json:"at"`
	TookS     float64   `json:"took_seconds"`
	Version   string    `json:"version,omitempty"`
	Quick     bool      `json:"quick"`
	Machine   Machine   `json:"machine"`
	Settings  Settings  `json:"settings"`
	Saturated *Against  `json:"saturation,omitempty"`
	Failing   *Against  `json:"failing,omitempty"`
	LowRate   *LowRate  `json:"low_rate,omitempty"`
	HalfRate  *Latency  `json:"half_rate,omitempty"` // at half of what saturates
	Cost      *Cost     `json:"cost,omitempty"`
	Memory    *Memory   `json:"memory,omitempty"`
	Idle      *Idle     `json:"idle,omitempty"`
	Shop      *Shop     `json:"shop,omitempty"`
	Loaded    *Compared `json:"loaded,omitempty"`
	Snapshot  *Compared `json:"old_snapshot,omitempty"`
	Scale     []Scale   `json:"scale,omitempty"`
}

// Machine is what was measured on.
type Machine struct {
	CPUs int    `json:"cpus"`
	CPU  string `json:"cpu,omitempty"`
	OS   string `json:"os"`
	Arch string `json:"arch"`
	Go   string `json:"go"`
}

// Settings are those that a figure depends on.
type Settings struct {
	Postgres          string  `json:"postgres"`
	Fsync             string  `json:"fsync"`
	SynchronousCommit string  `json:"synchronous_commit"`
	WALSyncMethod     string  `json:"wal_sync_method"`
	FullPageWrites    string  `json:"full_page_writes"`
	SharedBuffers     string  `json:"shared_buffers"`
	NATS              string  `json:"nats"`
	JetStreamSync     string  `json:"jetstream_sync"`
	Statements        string  `json:"statements_counted_by"`
	Participants      string  `json:"participants"`
	Clients           int     `json:"clients"`
	SliceSeconds      float64 `json:"slice_seconds"`
	Rounds            int     `json:"rounds"`
}

// Latency is from the time at which a saga was due to its client's final
// answer.
type Latency struct {
	Rate  float64 `json:"rate,omitempty"`
	P50MS float64 `json:"p50_ms"`
	P90MS float64 `json:"p90_ms"`
	P99MS float64 `json:"p99_ms"`
	MaxMS float64 `json:"max_ms"`
}

// Against is Skald against the limit program, in turns.
type Against struct {
	SagasPerSecond float64            `json:"sagas_per_second"`
	LimitPerSecond float64            `json:"limit_per_second"`
	Ratio          float64            `json:"ratio"`
	Rounds         [][2]float64       `json:"rounds"` // of each: Skald, limit
	CPU            map[string]float64 `json:"cpu_us_per_saga"`
	Latency
}

// LowRate is latency where nothing is short, against the same commits and
// publications alone.
type LowRate struct {
	Latency
	FloorP50MS float64 `json:"floor_p50_ms"`
	FloorP99MS float64 `json:"floor_p99_ms"`
	RatioP50   float64 `json:"ratio_p50"`
	RatioP99   float64 `json:"ratio_p99"`
}

// Cost is what a saga costs under full load.
type Cost struct {
	Statements    float64            `json:"statements_per_saga"`
	Transactions  float64            `json:"transactions_per_saga"`
	WALBytes      float64            `json:"wal_bytes_per_saga"`
	LimitWALBytes float64            `json:"limit_wal_bytes_per_saga"`
	WALRatio      float64            `json:"wal_ratio"`
	CPU           map[string]float64 `json:"cpu_us_per_saga"`
	LimitCPU      map[string]float64 `json:"limit_cpu_us_per_saga"`
}

// Memory is the most that was resident, after full load.
type Memory struct {
	Server       float64 `json:"server_rss_mb"`
	Relay        float64 `json:"relay_rss_mb"`
	Participants float64 `json:"participants_rss_mb"`
	NATS         float64 `json:"nats_rss_mb"`
}

// Idle is what is used while nothing happens. CPUCores is of server and relay.
type Idle struct {
	Queries  float64            `json:"queries_per_second"`
	CPUCores float64            `json:"cpu_cores"`
	CPU      map[string]float64 `json:"cpu_cores_by_process"`
}

// Shop is the same with participants that keep books.
type Shop struct {
	SagasPerSecond float64            `json:"sagas_per_second"`
	RatioToEcho    float64            `json:"ratio_to_echo"`
	Rounds         [][2]float64       `json:"rounds"` // of each: shop, echo
	CPU            map[string]float64 `json:"cpu_us_per_saga"`
}

// Compared is Skald under a burden against Skald without, in turns.
type Compared struct {
	Finished       int          `json:"finished,omitempty"`
	Open           int          `json:"open,omitempty"`
	SagasPerSecond float64      `json:"sagas_per_second"`
	Without        float64      `json:"sagas_per_second_without"`
	Ratio          float64      `json:"ratio"`
	Rounds         [][2]float64 `json:"rounds"` // of each: with, without
}

// Scale is one point of a series.
type Scale struct {
	Series string  `json:"series"`
	X      string  `json:"x"`
	Sagas  float64 `json:"sagas_per_second"`
	Steps  float64 `json:"steps_per_second"`
	Batch  float64 `json:"transitions_per_transaction,omitempty"`
}

func latencyOf(l latencies, rate float64) Latency {
	return Latency{Rate: round(rate), P50MS: ms(l.quantile(0.5)), P90MS: ms(l.quantile(0.9)), P99MS: ms(l.quantile(0.99)), MaxMS: ms(l.quantile(1))}
}

func ms(d time.Duration) float64 { return round(float64(d) / 1e6) }

// round keeps four digits, which is more than these figures have.
func round(f float64) float64 {
	if f == 0 || math.IsInf(f, 0) || math.IsNaN(f) {
		return 0
	}
	scale := math.Pow(10, 3-math.Floor(math.Log10(math.Abs(f))))
	return math.Round(f*scale) / scale
}

// Write writes the report as JSON.
func (r *Report) Write(to io.Writer) error {
	e := json.NewEncoder(to)
	e.SetIndent("", "  ")
	return e.Encode(r)
}

type printer struct{ out io.Writer }

func (p printer) headf(format string, args ...any) {
	_, _ = fmt.Fprintf(p.out, "\n"+format+"\n", args...)
}

func (p printer) linef(what, format string, args ...any) {
	_, _ = fmt.Fprintf(p.out, "  %-46s %s\n", what, fmt.Sprintf(format, args...))
}

func (p printer) cpu(what string, cpu map[string]float64) {
	var parts []string
	for _, role := range slices.Sorted(maps.Keys(cpu)) {
		if role != "total" {
			parts = append(parts, fmt.Sprintf("%s %.0f", role, cpu[role]))
		}
	}
	p.linef(what, "%.0f µs: %s", cpu["total"], strings.Join(parts, ", "))
}

func (p printer) latency(l Latency) {
	p.linef("p50, p90, p99, max", "%.4g, %.4g, %.4g, %.4g ms", l.P50MS, l.P90MS, l.P99MS, l.MaxMS)
}

func (p printer) settings(r *Report) {
	s := r.Settings
	p.headf("Machine and settings")
	p.linef("processors", "%d, %s", r.Machine.CPUs, r.Machine.CPU)
	p.linef("Postgres "+s.Postgres, "fsync %s, synchronous_commit %s, wal_sync_method %s", s.Fsync, s.SynchronousCommit, s.WALSyncMethod)
	p.linef("NATS "+s.NATS, "JetStream syncs %s", s.JetStreamSync)
	p.linef("statements are counted by", "%s", s.Statements)
}

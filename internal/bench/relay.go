package bench

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// RelayConfig is one run of the relay's bench.
type RelayConfig struct {
	Server string // path of the server's program, which the bench's own parts are
	Relay  string // of the relay's; empty: beside the server's, or built

	Rows         int           // that wait at the beginning of a turn
	Small, Large int           // backlogs between which memory is compared
	Rounds       int           // turns that each of two that are compared gets
	Rate         int           // messages a second in the latency part
	RateFor      time.Duration // of all its turns together
	SteadyFor    time.Duration
	Quick        bool
	Version      string
}

// RelayReport is what came of it. Ratios are of one run, of two things that
// were measured in turns: of throughput the median of the turns' ratios.
type RelayReport struct {
	At         time.Time       `json:"at"`
	TookS      float64         `json:"took_seconds"`
	Version    string          `json:"version,omitempty"`
	Quick      bool            `json:"quick"` // small backlogs, short turns
	Machine    Machine         `json:"machine"`
	Settings   RelaySettings   `json:"settings"`
	Throughput RelayThroughput `json:"throughput"`
	Latency    RelayLatency    `json:"latency"`
	Held       RelayCompared   `json:"held_snapshot"` // against none held
	Two        RelayCompared   `json:"two_relays"`    // against one
	Memory     RelayMemory     `json:"memory"`
}

// RelaySettings are those that a figure depends on.
type RelaySettings struct {
	Postgres          string `json:"postgres"`
	Fsync             string `json:"fsync"`
	SynchronousCommit string `json:"synchronous_commit"`
	WALSyncMethod     string `json:"wal_sync_method"`
	NATS              string `json:"nats"`
	JetStreamSync     string `json:"jetstream_sync"`
	Rows              int    `json:"rows_per_turn"`
	PayloadBytes      int    `json:"payload_bytes"`
	Batch             int    `json:"limit_batch"`
	LimitPublishes    string `json:"limit_publishes"` // a batch as what
	Rounds            int    `json:"rounds"`
}

// RelayThroughput is a backlog relayed, against the same messages published by
// a loop that does nothing else.
type RelayThroughput struct {
	PerSecond float64      `json:"messages_per_second"`
	Limit     float64      `json:"limit_per_second"`
	Ratio     float64      `json:"ratio_to_limit"`
	Rounds    [][2]float64 `json:"rounds"` // of each: relay, limit
	Steady    float64      `json:"steady_messages_per_second"`
	Written   float64      `json:"steady_written_per_second"` // by the writers that share the machine
}

// RelayLatency is from the time at which a message was due to be written until
// a consumer has it; the floor is the same commit, and a publication by the
// writer itself.
type RelayLatency struct {
	Latency
	FloorP50MS   float64 `json:"floor_p50_ms"`
	FloorP99MS   float64 `json:"floor_p99_ms"`
	RatioP50     float64 `json:"ratio_p50"`
	Ratio        float64 `json:"ratio_to_floor"` // of the p99s
	UnwokenP50MS float64 `json:"without_wake_ups_p50_ms"`
	UnwokenP99MS float64 `json:"without_wake_ups_p99_ms"`
}

// RelayCompared is a backlog relayed under a condition, and without it.
type RelayCompared struct {
	PerSecond float64      `json:"messages_per_second"`
	Without   float64      `json:"messages_per_second_without"`
	Ratio     float64      `json:"ratio"`
	Rounds    [][2]float64 `json:"rounds"` // of each: with, without
}

// RelayMemory is the most that was resident in a relay that worked a backlog
// off.
type RelayMemory struct {
	SmallRows int     `json:"small_backlog_rows"`
	LargeRows int     `json:"large_backlog_rows"`
	SmallMB   float64 `json:"small_backlog_mb"`
	LargeMB   float64 `json:"large_backlog_mb"`
	Ratio     float64 `json:"ratio"`
}

// Write writes the report as JSON.
func (r *RelayReport) Write(to io.Writer) error {
	e := json.NewEncoder(to)
	e.SetIndent("", "  ")
	return e.Encode(r)
}

// relayRun is one run.
type relayRun struct {
	*machine
	cfg    RelayConfig
	p      printer
	report *RelayReport
	nc     *nats.Conn
	js     jetstream.JetStream
	stream jetstream.Stream
	boxes  []*box
	limit  func(context.Context, []*nats.Msg) error // publishes a batch
}

// RunRelay measures the relay alone: no sagas, only a database with an outbox,
// writers, and a stream.
func RunRelay(ctx context.Context, cfg RelayConfig, out io.Writer) (*RelayReport, error) {
	r := &relayRun{cfg: cfg, p: printer{out}}
	r.report = &RelayReport{At: time.Now().UTC().Truncate(time.Second), Version: cfg.Version, Quick: cfg.Quick}
	r.p.headf("Starting Postgres and NATS")
	var err error
	if r.machine, err = boot(ctx, Config{Server: cfg.Server, Relay: cfg.Relay}); err != nil {
		return nil, err
	}
	if err = r.all(ctx); err != nil {
		err = errors.Join(err, r.check())
	}
	for _, b := range r.boxes {
		b.close()
	}
	if r.nc != nil {
		r.nc.Close()
	}
	r.report.TookS = round(time.Since(r.report.At).Seconds())
	return r.report, errors.Join(err, r.machine.close())
}

func (r *relayRun) all(ctx context.Context) error {
	if err := r.connect(ctx); err != nil {
		return err
	}
	if err := r.describe(ctx); err != nil {
		return err
	}
	plain, err := r.newBox(ctx, "plain")
	if err != nil {
		return err
	}
	held, err := r.newBox(ctx, "held")
	if err != nil {
		return err
	}
	for _, part := range []func(context.Context, *box) error{
		r.throughput, r.steady, r.delays,
		func(ctx context.Context, plain *box) error { return r.heldSnapshot(ctx, plain, held) },
		r.twoRelays, r.memory,
	} {
		if err := part(ctx, plain); err != nil {
			return err
		}
	}
	return nil
}

// connect makes the stream that takes all messages.
func (r *relayRun) connect(ctx context.Context) (err error) {
	if r.nc, err = connect(r.natsURL); err != nil {
		return err
	}
	if r.js, err = jetstream.New(r.nc); err != nil {
		return err
	}
	r.stream, err = r.js.CreateStream(ctx, jetstream.StreamConfig{
		Name: "BENCH", Subjects: []string{benchSubject}, Storage: jetstream.FileStorage, Discard: jetstream.DiscardNew, AllowAtomicPublish: true,
	})
	if err != nil {
		return fmt.Errorf("make the stream: %w", err)
	}
	return nil
}

func (r *relayRun) describe(ctx context.Context) error {
	var of Report
	if err := r.settings(ctx, &of); err != nil {
		return err
	}
	s := of.Settings
	r.report.Machine = of.Machine
	r.report.Settings = RelaySettings{
		Postgres: s.Postgres, Fsync: s.Fsync, SynchronousCommit: s.SynchronousCommit, WALSyncMethod: s.WALSyncMethod, NATS: s.NATS,
		JetStreamSync: s.JetStreamSync, Rows: r.cfg.Rows, PayloadBytes: benchPayload, Batch: benchBatch, Rounds: r.cfg.Rounds,
	}
	r.p.headf("Machine and settings")
	r.p.linef("processors", "%d, %s", of.Machine.CPUs, of.Machine.CPU)
	r.p.linef("Postgres "+s.Postgres, "fsync %s, synchronous_commit %s, wal_sync_method %s", s.Fsync, s.SynchronousCommit, s.WALSyncMethod)
	r.p.linef("NATS "+s.NATS, "JetStream syncs %s", s.JetStreamSync)
	if r.cfg.Quick {
		r.p.linef("--quick", "small backlogs and short turns: %d rows for a large backlog", r.cfg.Large)
	}
	return nil
}

// Package bench is behind `make bench`: it starts the whole of Skald, durable,
// each program in a process of its own as in production, loads it over HTTP,
// and compares it with a program that does nothing but the SQL and the messages
// that the same sagas need, in turns on the same machine. Figures belong to a
// machine; ratios of one run say something.
package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync/atomic"
	"time"
)

// Config is one run.
type Config struct {
	Server  string        // path of the server's program
	Relay   string        // of the relay's; empty: beside the server's, or built
	Rate    int           // sagas a second in the latency part
	Clients int           // at once in the saturation part
	For     time.Duration // of one measurement at saturation, after its warm-up
	RateFor time.Duration // of one at a rate
	IdleFor time.Duration
	Rounds  int  // turns that each of two that are compared gets
	Quick   bool // leave out what takes long
	Shop    bool // measure with the shop too
	Echo    bool // measure with participants that only answer

	Finished, Open int // sagas in the loaded database

	Version string
}

// Run measures, says how it goes and returns what came of it.
func Run(ctx context.Context, cfg Config, out io.Writer) (r *Report, err error) {
	return with(ctx, cfg, out, (*run).all)
}

// RunScale measures how throughput changes with the size of everything.
func RunScale(ctx context.Context, cfg Config, out io.Writer) (r *Report, err error) {
	return with(ctx, cfg, out, (*run).scale)
}

func with(ctx context.Context, cfg Config, out io.Writer, measure func(*run, context.Context) error) (*Report, error) {
	r := &run{cfg: cfg, p: printer{out}, report: &Report{At: time.Now().UTC().Truncate(time.Second), Version: cfg.Version, Quick: cfg.Quick}}
	r.report.Settings.Clients, r.report.Settings.Rounds, r.report.Settings.SliceSeconds = cfg.Clients, cfg.Rounds, cfg.For.Seconds()
	r.p.headf("Starting Postgres, NATS, servers, relays and participants")
	m, err := boot(ctx, cfg)
	if err != nil {
		return nil, err
	}
	r.machine = m
	err = measure(r, ctx)
	if err != nil {
		err = errors.Join(err, m.check()) // whoever has died says why
	}
	if r.limit != nil {
		r.limit.close()
	}
	r.report.TookS = round(time.Since(r.report.At).Seconds())
	return r.report, errors.Join(err, m.close())
}

// run is one run.
type run struct {
	cfg    Config
	p      printer
	report *Report
	*machine
	limit *limit
	main  *system // what most parts measure
}

// request places an order of three steps that succeeds.
func (r *run) request() request { return orderOf("bench-"+skuDigits, "confirmed") }

// all measures one part after the other.
func (r *run) all(ctx context.Context) (err error) {
	kind := "echo"
	if !r.cfg.Echo {
		kind = "shop"
	}
	if r.main, err = r.startSystem(ctx, "skald", kind, "", orderServices); err != nil {
		return err
	}
	if r.limit, err = r.newLimit(ctx); err != nil {
		return err
	}
	if err := r.settings(ctx, r.report); err != nil {
		return err
	}
	r.report.Settings.Participants = map[string]string{"echo": "they only answer", "shop": "the shop, which keeps books"}[kind]
	r.p.settings(r.report)
	parts := []func(context.Context) error{r.saturation, r.latency, r.idle}
	if r.cfg.Echo {
		parts = append(parts, r.failing) // the shop has no order whose third step fails
	}
	if r.cfg.Echo && r.cfg.Shop {
		parts = append(parts, r.shop)
	}
	if !r.cfg.Quick {
		parts = append(parts, r.snapshot, r.loaded)
	}
	for _, part := range parts {
		if err := part(ctx); err != nil {
			return err
		}
	}
	return nil
}

// saturation keeps clients busy, in turns with the limit program.
func (r *run) saturation(ctx context.Context) error {
	r.p.headf("Saturation: %d clients, each with one order at a time; and the limit program, in turns", r.cfg.Clients)
	if err := r.warmUp(ctx, r.main); err != nil {
		return err
	}
	a, skald, limit, err := r.against(ctx, r.request(), succeeding)
	if err != nil {
		return err
	}
	r.report.Saturated = a
	c := &Cost{
		Statements: round(skald.each(skald.statements)), Transactions: round(skald.each(skald.transactions)),
		WALBytes: round(skald.each(skald.wal)), LimitWALBytes: round(limit.each(limit.wal)),
		CPU: a.CPU, LimitCPU: limit.cpuPerSaga(),
	}
	c.WALRatio = round(quotient(c.WALBytes, c.LimitWALBytes))
	r.report.Cost = c
	r.p.cpu("processor time per saga", c.CPU)
	r.p.cpu("processor time per saga of the limit program", c.LimitCPU)
	r.p.linef("statements, transactions per saga", "%.3g, %.3g", c.Statements, c.Transactions)
	r.p.linef("WAL per saga; of the limit program; ratio", "%.0f bytes, %.0f bytes, %.2f", c.WALBytes, c.LimitWALBytes, c.WALRatio)
	m := &Memory{Server: round(skald.peak[roleServer]), Relay: round(skald.peak[roleRelay]),
		Participants: round(skald.peak[roleParticipants]), NATS: round(skald.peak[roleNATS])}
	r.report.Memory = m
	r.p.linef("most memory of server, relay, participants, NATS", "%.0f, %.0f, %.0f, %.0f MB", m.Server, m.Relay, m.Participants, m.NATS)
	return nil
}

// failing is the same with orders whose third step fails, so that two steps
// are compensated.
func (r *run) failing(ctx context.Context) error {
	r.p.headf("Failing: the third step fails, two are compensated")
	a, _, _, err := r.against(ctx, orderOf(refusedSKU, "cancelled"), failing)
	r.report.Failing = a
	return err
}

// against measures the main system and the limit program in turns.
func (r *run) against(ctx context.Context, req request, sh shape) (a *Against, skald, limit slice, err error) {
	a = &Against{}
	err = r.turns(ctx, "Skald", "the limit program", &a.Rounds, &skald, &limit,
		func(ctx context.Context) (slice, error) { return r.slice(ctx, r.main, req, r.cfg.Clients) },
		func(ctx context.Context) (slice, error) {
			return r.limitSlice(ctx, r.limit, sh, limitBatch, r.warm(), r.cfg.For)
		})
	if err != nil {
		return nil, skald, limit, err
	}
	a.SagasPerSecond, a.LimitPerSecond = round(skald.perSecond()), round(limit.perSecond())
	a.Ratio = round(quotient(skald.perSecond(), limit.perSecond()))
	a.CPU, a.Latency = skald.cpuPerSaga(), latencyOf(skald.times, 0)
	r.p.linef("completed sagas a second; limit; ratio", "%.0f, %.0f, %.3f", a.SagasPerSecond, a.LimitPerSecond, a.Ratio)
	r.p.latency(a.Latency)
	return a, skald, limit, nil
}

// turns measures two in turns, A B A B, so that a machine that gets slower or
// faster does so for both.
func (r *run) turns(ctx context.Context, nameA, nameB string, rounds *[][2]float64, a, b *slice,
	measureA, measureB func(context.Context) (slice, error),
) error {
	for i := range r.cfg.Rounds {
		one, err := measureA(ctx)
		if err != nil {
			return fmt.Errorf("measure %s: %w", nameA, err)
		}
		other, err := measureB(ctx)
		if err != nil {
			return fmt.Errorf("measure %s: %w", nameB, err)
		}
		a.add(one)
		b.add(other)
		*rounds = append(*rounds, [2]float64{round(one.perSecond()), round(other.perSecond())})
		r.p.linef(fmt.Sprintf("turn %d of %d", i+1, r.cfg.Rounds), "%s %.0f, %s %.0f sagas a second", nameA, one.perSecond(), nameB, other.perSecond())
	}
	return nil
}

// warm is how long a load runs before it is measured.
func (r *run) warm() time.Duration { return min(max(r.cfg.For/4, 100*time.Millisecond), 3*time.Second) }

// warmUp makes connections, plans and code ready before the first measurement.
func (r *run) warmUp(ctx context.Context, s *system) error {
	_, err := r.slice(ctx, s, r.request(), r.cfg.Clients)
	return err
}

// slice loads a system for a while, and measures it under that load.
func (r *run) slice(ctx context.Context, s *system, req request, clients int) (out slice, err error) {
	if err := r.settle(ctx); err != nil {
		return out, err
	}
	l, err := startLoad(s.addrs, clients, req, &s.number)
	if err != nil {
		return out, err
	}
	defer func() {
		times, stopErr := l.stop()
		out.times = times
		err = errors.Join(err, stopErr)
	}()
	return r.window(ctx, &l.done, r.warm(), r.cfg.For, &l.counting, func() (meter, error) { return s.read(ctx) })
}

// settle writes out what earlier loads have left to do, so that it is not done
// under the next.
func (m *machine) settle(ctx context.Context) error {
	if _, err := m.admin.Exec(ctx, `CHECKPOINT`); err != nil {
		return fmt.Errorf("settle: %w", err)
	}
	return nil
}

// window reads the counters when a load has warmed up, and again later. The
// load goes on at both moments.
func (m *machine) window(ctx context.Context, done *atomic.Int64, warm, d time.Duration, counting *atomic.Bool, read func() (meter, error)) (slice, error) {
	if err := wait(ctx, warm); err != nil {
		return slice{}, err
	}
	before, err := read()
	if err != nil {
		return slice{}, err
	}
	began := done.Load()
	if counting != nil {
		counting.Store(true)
	}
	if err := wait(ctx, d); err != nil {
		return slice{}, err
	}
	// Where everything is slow, a short time is not enough for a batch.
	for late := time.Now().Add(30 * time.Second); done.Load() == began && time.Now().Before(late); {
		if err := wait(ctx, 10*time.Millisecond); err != nil {
			return slice{}, err
		}
	}
	if counting != nil {
		counting.Store(false)
	}
	after, err := read()
	if err != nil {
		return slice{}, err
	}
	return between(before, after, done.Load()-began), nil
}

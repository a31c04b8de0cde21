// Package bench is behind `make bench`: it starts the whole of Skald as a user
// would, durability on, loads it over HTTP, and prints what it did as figures
// and, because figures belong to a machine, as ratios to what the same machine
// does in the same run.
package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/jackc/pgx/v5"
)

// Config is one run.
type Config struct {
	Server  string        // path of the server program
	Rate    int           // orders a second in the latency part
	Clients int           // at once in the saturation part
	For     time.Duration // each of the two
	IdleFor time.Duration
	Shop    bool // measure with the shop
	Echo    bool // measure with participants that only answer
}

// steps of the orders that are placed: nothing is shipped.
const steps = 3

// commitsInARow is what an order of three steps cannot do without: one commit
// of the engine for the start and one for each reply, one of a participant for
// each step.
const commitsInARow = 1 + steps + steps

// Run measures, and prints as it goes: first with the shop, whose participants
// have work of their own, then with participants that only answer, which shows
// what Skald itself costs.
func Run(ctx context.Context, cfg Config, out io.Writer) error {
	p := printer{out}
	if cfg.Shop {
		p.headf("With the shop: inventory, payment and shipping on tables of their own")
		if err := withSystem(ctx, cfg, func(s *system) error { return s.all(ctx, cfg, p) }); err != nil {
			return err
		}
	}
	if !cfg.Echo {
		return nil
	}
	p.headf("With participants that only answer")
	return withSystem(ctx, cfg, func(s *system) error {
		stop, err := s.echo(ctx)
		if err != nil {
			return err
		}
		defer stop()
		return s.all(ctx, cfg, p)
	}, "--no-participants")
}

// withSystem starts a system for measure, and stops it.
func withSystem(ctx context.Context, cfg Config, measure func(*system) error, flags ...string) error {
	s, err := start(ctx, cfg.Server, flags...)
	if err != nil {
		return err
	}
	return errors.Join(measure(s), s.stop())
}

func (s *system) all(ctx context.Context, cfg Config, p printer) error {
	commit, err := s.sequentialCommits(ctx, 400)
	if err != nil {
		return err
	}
	p.line("one durable commit after another, median", ms(commit))

	p.headf("Latency at %d orders a second, for %s", cfg.Rate, cfg.For)
	if _, _, err := s.atRate(ctx, cfg.Rate, 3*time.Second); err != nil { // connections open, plans are made
		return err
	}
	lat, failed, err := s.atRate(ctx, cfg.Rate, cfg.For)
	if err != nil {
		return err
	}
	p.line("p50", ms(lat.quantile(0.50)))
	p.line("p99", ms(lat.quantile(0.99)))
	p.line(fmt.Sprintf("p50, in times of the %d commits in a row that it needs", commitsInARow), fmt.Sprintf("%.2f", float64(lat.quantile(0.5))/float64(commitsInARow*commit)))
	p.line("orders that failed", failed)

	if err := s.saturation(ctx, cfg, p, commit); err != nil {
		return err
	}
	return s.idle(ctx, cfg.IdleFor, p)
}

// saturation keeps clients busy: each places an order and waits for its end.
func (s *system) saturation(ctx context.Context, cfg Config, p printer, commit time.Duration) error {
	p.headf("Saturation: %d clients, each with one order at a time, for %s", cfg.Clients, cfg.For)
	warm, cancel := context.WithTimeout(ctx, cfg.For/4)
	s.closedLoop(warm, cfg.Clients)
	cancel()
	before, err := s.measure(ctx)
	if err != nil {
		return err
	}
	loaded, cancel := context.WithTimeout(ctx, cfg.For)
	lat, failed := s.closedLoop(loaded, cfg.Clients)
	cancel()
	after, err := s.measure(ctx)
	if err != nil {
		return err
	}
	n := float64(after.completed - before.completed)
	took := after.at.Sub(before.at)
	perSecond := n / took.Seconds()
	p.line("completed sagas a second", fmt.Sprintf("%.0f", perSecond))
	p.line("in sagas per durable commit of one connection", fmt.Sprintf("%.2f", perSecond*commit.Seconds()))
	p.line("p50", ms(lat.quantile(0.50)))
	p.line("p99", ms(lat.quantile(0.99)))
	p.line("orders that failed", failed)
	p.line("processor time per saga: Skald, NATS and participants", ms(time.Duration(float64(after.cpu-before.cpu)/n)))
	p.line("processor time per saga: Postgres", ms(time.Duration(float64(after.postgresCPU-before.postgresCPU)/n)))
	p.line("WAL per saga, with the participants' own", fmt.Sprintf("%.1f kB", float64(after.wal-before.wal)/n/1000))
	p.line("memory of Skald, NATS and participants", fmt.Sprintf("%.0f MB", float64(after.rss)/1e6))
	return nil
}

// idle measures what Skald costs when nothing happens.
func (s *system) idle(ctx context.Context, d time.Duration, p printer) error {
	p.headf("Idle, for %s", d)
	// Postgres counts what a connection did when that has been idle for 10 s.
	if err := wait(ctx, 15*time.Second); err != nil {
		return err
	}
	before, err := s.measure(ctx)
	if err != nil {
		return err
	}
	if err := wait(ctx, d); err != nil {
		return err
	}
	after, err := s.measure(ctx)
	if err != nil {
		return err
	}
	took := after.at.Sub(before.at).Seconds()
	p.line("queries a second, by Skald", fmt.Sprintf("%.1f", float64(after.queries-before.queries)/took))
	p.line("of one core: Skald, NATS and participants", fmt.Sprintf("%.1f %%", 100*(after.cpu-before.cpu).Seconds()/took))
	p.line("of one core: Postgres", fmt.Sprintf("%.1f %%", 100*(after.postgresCPU-before.postgresCPU).Seconds()/took))
	return nil
}

// sequentialCommits is the median time of a one-row commit on one connection.
func (s *system) sequentialCommits(ctx context.Context, n int) (time.Duration, error) {
	conn, err := pgx.Connect(ctx, s.Shop)
	if err != nil {
		return 0, fmt.Errorf("measure commits: %w", err)
	}
	defer func() { _ = conn.Close(ctx) }()
	if _, err := conn.Exec(ctx, `CREATE TABLE IF NOT EXISTS bench_commit (id bigint GENERATED ALWAYS AS IDENTITY)`); err != nil {
		return 0, fmt.Errorf("measure commits: %w", err)
	}
	var l latencies
	for range n {
		began := time.Now()
		if _, err := conn.Exec(ctx, `INSERT INTO bench_commit DEFAULT VALUES`); err != nil {
			return 0, fmt.Errorf("measure commits: %w", err)
		}
		l.add(time.Since(began))
	}
	return l.quantile(0.5), nil
}

func wait(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}

type printer struct{ out io.Writer }

func (p printer) headf(format string, args ...any) {
	_, _ = fmt.Fprintf(p.out, "\n"+format+"\n", args...)
}

func (p printer) line(what string, value any) { _, _ = fmt.Fprintf(p.out, "  %-64s %v\n", what, value) }

func ms(d time.Duration) string { return fmt.Sprintf("%.2f ms", float64(d)/1e6) }

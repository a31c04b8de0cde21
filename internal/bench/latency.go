package bench

import (
	"context"
	"fmt"
	"time"
)

// latency measures at a rate at which nothing is short, in turns with what the
// same rate takes if only the commits and publications of a saga are done, and
// then at half of what saturates.
func (r *run) latency(ctx context.Context) error {
	r.p.headf("Latency at %d orders a second; and of four commits and six publications in a row, in turns", r.cfg.Rate)
	if _, err := r.atRate(ctx, r.cfg.Rate, min(r.cfg.RateFor, time.Second)); err != nil { // connections open, plans are made
		return err
	}
	if _, err := r.floor(ctx, min(r.cfg.RateFor, time.Second)); err != nil {
		return err
	}
	var all, alone latencies
	for range r.cfg.Rounds {
		one, err := r.atRate(ctx, r.cfg.Rate, r.cfg.RateFor/time.Duration(r.cfg.Rounds))
		if err != nil {
			return err
		}
		other, err := r.floor(ctx, r.cfg.RateFor/time.Duration(r.cfg.Rounds))
		if err != nil {
			return err
		}
		all, alone = append(all, one...), append(alone, other...)
	}
	l := &LowRate{Latency: latencyOf(all, float64(r.cfg.Rate)), FloorP50MS: ms(alone.quantile(0.5)), FloorP99MS: ms(alone.quantile(0.99))}
	l.RatioP50, l.RatioP99 = round(quotient(l.P50MS, l.FloorP50MS)), round(quotient(l.P99MS, l.FloorP99MS))
	r.report.LowRate = l
	r.p.latency(l.Latency)
	r.p.linef("p50, p99 of the commits and publications", "%.4g, %.4g ms; ratios %.2f, %.2f", l.FloorP50MS, l.FloorP99MS, l.RatioP50, l.RatioP99)

	half := max(1, int(r.report.Saturated.SagasPerSecond/2))
	r.p.headf("Latency at %d orders a second, half of what saturates", half)
	times, err := r.atRate(ctx, half, r.cfg.RateFor/2)
	if err != nil {
		return err
	}
	h := latencyOf(times, float64(half))
	r.report.HalfRate = &h
	r.p.latency(h)
	return nil
}

// atRate places orders at fixed times.
func (r *run) atRate(ctx context.Context, rate int, d time.Duration) (latencies, error) {
	if err := r.settle(ctx); err != nil {
		return nil, err
	}
	clients := &idleClients{addr: r.main.addrs[0], req: r.request()}
	defer clients.close()
	l, err := paced(ctx, rate, d, func() error { return clients.do(r.main.number.Add(1)) })
	if err != nil {
		return nil, fmt.Errorf("place orders at a rate: %w", err)
	}
	return l, nil
}

// floor does nothing but a saga's commits and publications, at the low rate.
func (r *run) floor(ctx context.Context, d time.Duration) (latencies, error) {
	if err := r.settle(ctx); err != nil {
		return nil, err
	}
	l, err := paced(ctx, r.cfg.Rate, d, func() error { return r.limit.one(ctx) })
	if err != nil {
		return nil, fmt.Errorf("measure commits and publications: %w", err)
	}
	return l, r.limit.purge(ctx)
}

// idle measures what is used when nothing happens.
func (r *run) idle(ctx context.Context) error {
	r.p.headf("Idle, for %s", r.cfg.IdleFor)
	settle := time.Second // what the load has set going comes to rest
	if !r.exact {
		settle = 12 * time.Second // Postgres adds up what a connection did when it has been idle for ten
	}
	if err := wait(ctx, min(settle, 12*r.cfg.IdleFor)); err != nil {
		return err
	}
	before, err := r.main.read(ctx)
	if err != nil {
		return err
	}
	if err := wait(ctx, r.cfg.IdleFor); err != nil {
		return err
	}
	after, err := r.main.read(ctx)
	if err != nil {
		return err
	}
	s := between(before, after, 0)
	i := &Idle{Queries: round(float64(s.statements) / s.took.Seconds()), CPU: map[string]float64{}}
	for role, cpu := range s.cpu {
		i.CPU[role] = round(cpu.Seconds() / s.took.Seconds())
	}
	i.CPUCores = round(i.CPU[roleServer] + i.CPU[roleRelay])
	r.report.Idle = i
	r.p.linef("queries a second by server and relay", "%.1f", i.Queries)
	r.p.linef("cores of server and relay; Postgres; NATS", "%.4f; %.4f; %.4f", i.CPUCores, i.CPU[rolePostgres], i.CPU[roleNATS])
	return nil
}

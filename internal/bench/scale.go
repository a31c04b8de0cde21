package bench

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// The sizes that are measured. What is not varied is one server, three steps,
// 0.2 KB and the clients that were asked for.
var (
	scaleSteps    = []int{1, 3, 10, 50}
	scalePayloads = []int{200, 2_000, 20_000}
	scaleBatches  = []int{1, 4, 16, 64, 256}
)

// scale measures how throughput changes with the number of servers, the steps
// of a saga, the bytes of its payload and the size of a batch.
func (r *run) scale(ctx context.Context) (err error) {
	dir := filepath.Join(r.dir, "definitions")
	if err := writeDefinitions(dir); err != nil {
		return err
	}
	if r.main, err = r.startSystem(ctx, "skald", "echo", dir, []string{scaled}); err != nil {
		return err
	}
	if r.limit, err = r.newLimit(ctx); err != nil {
		return err
	}
	if err := r.settings(ctx, r.report); err != nil {
		return err
	}
	r.p.settings(r.report)
	r.p.headf("%-26s %10s %12s %12s %24s", "", "", "sagas/s", "steps/s", "transitions/transaction")
	if _, err := r.slice(ctx, r.main, sagaOf(definitionOf(3), 200), r.cfg.Clients); err != nil {
		return err
	}
	for _, n := range scaleSteps {
		if err := r.point(ctx, "steps", strconv.Itoa(n), n, 200, r.cfg.Clients); err != nil {
			return err
		}
	}
	for _, n := range scalePayloads {
		if err := r.point(ctx, "payload, KB", fmt.Sprintf("%g", float64(n)/1000), 3, n, r.cfg.Clients); err != nil {
			return err
		}
	}
	// Batches are what is waiting: they grow with the clients.
	for n := 1; n <= r.cfg.Clients; n *= 4 {
		if err := r.point(ctx, "clients", strconv.Itoa(n), 3, 200, n); err != nil {
			return err
		}
	}
	if err := r.limitPoints(ctx); err != nil {
		return err
	}
	for n := 1; n <= 2; n++ {
		if n > 1 {
			if err := r.main.addServer(ctx, dir); err != nil {
				return err
			}
		}
		if err := r.point(ctx, "servers", strconv.Itoa(n), 3, 200, r.cfg.Clients); err != nil {
			return err
		}
	}
	return nil
}

func (r *run) limitPoints(ctx context.Context) error {
	for _, n := range scaleBatches {
		s, err := r.limitSlice(ctx, r.limit, succeeding, n, r.warm(), r.cfg.For)
		if err != nil {
			return err
		}
		r.add("batch of the limit program", strconv.Itoa(n), succeeding.commands, s, float64(n))
	}
	return nil
}

func (r *run) point(ctx context.Context, series, x string, steps, payload, clients int) error {
	s, err := r.slice(ctx, r.main, sagaOf(definitionOf(steps), payload), clients)
	if err != nil {
		return fmt.Errorf("%s %s: %w", series, x, err)
	}
	// One transition for the start and one for each reply.
	r.add(series, x, steps, s, quotient(float64(s.sagas)*float64(steps+1), float64(s.writes)))
	return nil
}

func (r *run) add(series, x string, steps int, s slice, batch float64) {
	p := Scale{Series: series, X: x, Sagas: round(s.perSecond()), Steps: round(s.perSecond() * float64(steps)), Batch: round(batch)}
	r.report.Scale = append(r.report.Scale, p)
	r.p.linef(fmt.Sprintf("%-26s %10s", series, x), "%12.0f %12.0f %24.1f", p.Sagas, p.Steps, p.Batch)
}

func definitionOf(steps int) string { return "bench-" + strconv.Itoa(steps) }

// writeDefinitions writes a saga of each number of steps. Each step gets all
// that the saga got.
func writeDefinitions(dir string) error {
	if err := os.Mkdir(dir, 0o700); err != nil {
		return err
	}
	for _, n := range scaleSteps {
		var b strings.Builder
		fmt.Fprintf(&b, "name: %s\ndeadline: 15m\nsteps:\n", definitionOf(n))
		for i := range n {
			fmt.Fprintf(&b, "  - {name: step-%d, participant: %s, action: do, compensation: undo, payload: '{\"data\": input.data}'}\n", i+1, scaled)
		}
		if err := os.WriteFile(filepath.Join(dir, definitionOf(n)+".yaml"), []byte(b.String()), 0o600); err != nil {
			return err
		}
	}
	return nil
}

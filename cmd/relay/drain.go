package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/skald-saga/skald/internal/drain"
	"github.com/skald-saga/skald/internal/program"
)

// drainCmd is the configuration of `relay drain`.
type drainCmd struct {
	sidecarFlags
	File string `arg:"" help:"What the table's columns mean, in YAML (docs/relay.md)."`
}

// Run publishes until ctx is cancelled, then finishes the page at hand.
func (c *drainCmd) Run(ctx context.Context, out program.Streams) error {
	text, err := os.ReadFile(c.File)
	if err != nil {
		return program.UsageError{Err: err}
	}
	m, err := drain.Parse(text)
	if err != nil {
		return program.Usagef("%s: %w", c.File, err)
	}
	return c.serve(ctx, out, job{
		check: func(ctx context.Context, pool *pgxpool.Pool) error {
			_, err := m.Check(ctx, pool)
			return mistaken(c.File, err)
		},
		usage: drain.ErrMistaken,
		publish: func(ctx context.Context, t tools) error {
			warnings, err := m.Check(ctx, t.pool)
			if err != nil {
				warnings = []string{"the table could not be looked at: " + err.Error()}
			}
			slices.Sort(warnings)
			for _, w := range warnings {
				t.log.Warn("the table is drained, but not well", "table", m.Table, "reason", w)
			}
			t.log.Info("draining a table", "table", m.Table)
			d := &drain.Drain{Pool: t.pool, Mapping: m, Publisher: t.publisher, Log: t.log, Wake: t.wake, Metrics: drain.NewMetrics(t.registry)}
			err = d.Run(ctx)
			if errors.Is(err, drain.ErrMistaken) {
				return program.UsageError{Err: mistaken(c.File, err)}
			}
			return err
		},
	})
}

// mistaken says in which file the mistakes are.
func mistaken(file string, err error) error {
	if errors.Is(err, drain.ErrMistaken) {
		return fmt.Errorf("%s: %w", file, err)
	}
	return err
}

// installDrain makes the table of leases.
func installDrain(ctx context.Context, pool *pgxpool.Pool, out program.Streams) error {
	if _, err := pool.Exec(ctx, drain.Schema); err != nil {
		return fmt.Errorf("install the table of leases: %w", err)
	}
	_, err := fmt.Fprintln(out.Out, "relay drain can work on this database")
	return err
}

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/skald-saga/skald/internal/bench"
	"github.com/skald-saga/skald/internal/embedded"
	"github.com/skald-saga/skald/internal/program"
)

// benchRelayCmd is what `relay bench` runs: the servers that it needs are in
// this program, and must not be in the relay's (decision 014).
type benchRelayCmd struct {
	Quick     bool          `help:"About a minute in all."`
	JSON      string        `name:"json" help:"Write the outcome into this file, as JSON."`
	Relay     string        `required:"" help:"The relay's program."`
	Rows      int           `help:"Messages that wait when a turn begins; default 200000, or 30000 with --quick."`
	Small     int           `help:"Messages of the small backlog." default:"10000"`
	Large     int           `help:"Messages of the large backlog; default 2000000, or 200000 with --quick."`
	Rounds    int           `help:"Turns that each of two things that are compared gets; default 5, or 3 with --quick."`
	Rate      int           `help:"Messages a second in the latency part." default:"100"`
	RateFor   time.Duration `help:"Length of the latency part; default 30s, or 6s with --quick."`
	SteadyFor time.Duration `help:"Length of the steady part; default 10s, or 3s with --quick."`
}

// Run measures until it is done, or standard input ends: then whoever started
// it is gone.
func (b benchRelayCmd) Run(ctx context.Context, out program.Streams) error {
	orElse(&b.Rows, 200_000, 30_000, b.Quick)
	orElse(&b.Large, 2_000_000, 200_000, b.Quick)
	orElse(&b.Rounds, 5, 3, b.Quick)
	orElse(&b.RateFor, 30*time.Second, 6*time.Second, b.Quick)
	orElse(&b.SteadyFor, 10*time.Second, 3*time.Second, b.Quick)
	switch {
	case b.Rows < 1 || b.Small < 1 || b.Large < 1 || b.Rounds < 1 || b.Rate < 1:
		return program.Usagef("--rows, --small, --large, --rounds and --rate must be at least 1")
	case b.RateFor < 100*time.Millisecond || b.SteadyFor < 100*time.Millisecond:
		return program.Usagef("--rate-for and --steady-for must be at least 100ms")
	}
	signal.Ignore(syscall.SIGPIPE) // see benchCmd
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find this program: %w", err)
	}
	toJSON, err := openOutcome("json", b.JSON)
	if err != nil {
		return err
	}
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		stop()
	}()
	report, err := bench.RunRelay(ctx, bench.RelayConfig{
		Server: self, Relay: b.Relay, Rows: b.Rows, Small: b.Small, Large: b.Large, Rounds: b.Rounds, Rate: b.Rate, RateFor: b.RateFor,
		SteadyFor: b.SteadyFor, Quick: b.Quick, Version: program.Version(),
	}, out.Out)
	switch {
	case errors.Is(err, embedded.ErrNoPostgres):
		err = program.UsageError{Err: err}
	case errors.Is(err, bench.ErrNoRelay):
		err = program.Usagef("--relay: %w", err)
	}
	if err != nil {
		return errors.Join(err, toJSON.drop())
	}
	return toJSON.keep(report.Write)
}

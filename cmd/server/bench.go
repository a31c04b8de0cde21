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

type benchCmd struct {
	Quick   bool          `help:"About a minute in all: short measurements, and without those that need a full database."`
	JSON    string        `name:"json" help:"Write the outcome into this file, as JSON." placeholder:"FILE"`
	Scale   bool          `help:"Measure, instead, how throughput changes with servers, steps, payload and batches, and plot it."`
	SVG     string        `name:"svg" help:"Where --scale plots." placeholder:"FILE" default:"bench-scale.svg"`
	With    string        `help:"Which participants: echo (they only answer), shop (the real ones) or both, in turns." enum:"shop,echo,both" default:"both"`
	Clients int           `help:"Clients at once in the saturation part." default:"1024"`
	Rate    int           `help:"Orders a second in the latency part." default:"50"`
	For     time.Duration `help:"Length of each measurement at saturation; default 10s, or 2s with --quick or --scale."`
	RateFor time.Duration `help:"Length of the latency part; default 40s, or 6s with --quick."`
	IdleFor time.Duration `help:"Length of the idle part; default 20s, or 4s with --quick."`
	Rounds  int           `help:"Turns that each of two things that are compared gets; default 3, or 2 with --quick."`
	Relay   string        `help:"The relay's program; default: the one beside this one, or it is built." placeholder:"FILE"`

	Finished int  `help:"Finished sagas in the full database." default:"1000000"`
	Open     int  `help:"Open sagas in the full database." default:"100000"`
	Part     bool `hidden:"" help:"Be one of the processes that the bench starts."`
}

// Run measures the whole of Skald on this machine.
func (b benchCmd) Run(ctx context.Context, out program.Streams) (err error) {
	if b.Part {
		return bench.Part(ctx, os.Stdin, out.Out)
	}
	if err := b.complete(); err != nil {
		return err
	}
	// A reader that goes away, such as head, must not end us before we have
	// stopped what we started.
	signal.Ignore(syscall.SIGPIPE)
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find this program: %w", err)
	}
	cfg := bench.Config{
		Server: self, Relay: b.Relay, Rate: b.Rate, Clients: b.Clients, For: b.For, RateFor: b.RateFor, IdleFor: b.IdleFor, Rounds: b.Rounds,
		Quick: b.Quick, Shop: b.With != "echo", Echo: b.With != "shop", Finished: b.Finished, Open: b.Open, Version: program.Version(),
	}
	run, svg := bench.Run, ""
	if b.Scale {
		run, svg = bench.RunScale, b.SVG
	}
	// Now rather than at the end: a name that cannot be written to must not cost a run.
	toJSON, err := openOutcome("json", b.JSON)
	if err != nil {
		return err
	}
	toSVG, err := openOutcome("svg", svg)
	if err != nil {
		return errors.Join(err, toJSON.drop())
	}
	report, err := run(ctx, cfg, out.Out)
	if err != nil {
		err = errors.Join(err, toJSON.drop(), toSVG.drop())
	}
	switch {
	case errors.Is(err, embedded.ErrNoPostgres):
		return program.UsageError{Err: err}
	case errors.Is(err, bench.ErrNoRelay):
		return program.Usagef("--relay: %w", err)
	case err != nil:
		return err
	}
	return errors.Join(toJSON.keep(report.Write), toSVG.keep(report.Plot))
}

// complete fills in what was not given, and refuses what cannot be.
func (b *benchCmd) complete() error {
	orElse(&b.For, 10*time.Second, 2*time.Second, b.Quick || b.Scale)
	orElse(&b.RateFor, 40*time.Second, 6*time.Second, b.Quick)
	orElse(&b.IdleFor, 20*time.Second, 4*time.Second, b.Quick)
	orElse(&b.Rounds, 3, 2, b.Quick)
	const shortest = 100 * time.Millisecond
	switch {
	case b.Rate < 1 || b.Clients < 1 || b.Rounds < 1:
		return program.Usagef("--rate, --clients and --rounds must be at least 1")
	case b.Clients > 10_000 || b.Rate > 100_000:
		return program.Usagef("--clients must be at most 10000, --rate at most 100000")
	case b.For < shortest || b.RateFor < shortest || b.IdleFor < shortest:
		return program.Usagef("--for, --rate-for and --idle-for must be at least %s", shortest)
	case b.Finished < 0 || b.Open < 0:
		return program.Usagef("--finished and --open must not be negative")
	}
	return nil
}

func orElse[T comparable](value *T, long, short T, quick bool) {
	var unset T
	switch {
	case *value != unset:
	case quick:
		*value = short
	default:
		*value = long
	}
}

// outcome is a file that is written at the end. Until then it holds what an
// earlier run has written.
type outcome struct {
	file *os.File // nil: nobody wants to know
	made bool
}

func openOutcome(flag, name string) (outcome, error) {
	if name == "" {
		return outcome{}, nil
	}
	_, err := os.Stat(name)
	o := outcome{made: errors.Is(err, os.ErrNotExist)}
	if o.file, err = os.OpenFile(name, os.O_WRONLY|os.O_CREATE, 0o644); err != nil { //nolint:gosec // figures, for everybody
		return o, program.Usagef("--%s: %w", flag, err)
	}
	return o, nil
}

func (o outcome) keep(write func(io.Writer) error) error {
	if o.file == nil {
		return nil
	}
	_ = o.file.Truncate(0) // a terminal or a pipe has nothing to forget
	return errors.Join(write(o.file), o.file.Close())
}

func (o outcome) drop() error {
	if o.file == nil {
		return nil
	}
	err := o.file.Close()
	if o.made {
		err = errors.Join(err, os.Remove(o.file.Name()))
	}
	return err
}

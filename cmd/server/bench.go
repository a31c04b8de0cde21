package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/skald-saga/skald/internal/bench"
	"github.com/skald-saga/skald/internal/program"
)

type benchCmd struct {
	Rate    int           `help:"Orders a second in the latency part." default:"50"`
	Clients int           `help:"Clients at once in the saturation part." default:"256"`
	For     time.Duration `help:"Length of the latency part, and of the saturation part." default:"20s"`
	IdleFor time.Duration `help:"Length of the idle part." default:"20s"`
	With    string        `help:"Which participants: shop (the real ones), echo (they only answer) or both." enum:"shop,echo,both" default:"both"`
}

// Run measures the whole of Skald on this machine.
func (b benchCmd) Run(ctx context.Context, out program.Streams) error {
	if b.Rate < 1 || b.Clients < 1 || b.For < time.Second || b.IdleFor < time.Second {
		return program.Usagef("--rate and --clients must be at least 1, --for and --idle-for at least 1s")
	}
	// A reader that goes away, such as head, must not end us before we have
	// stopped what we started.
	signal.Ignore(syscall.SIGPIPE)
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find this program: %w", err)
	}
	return bench.Run(ctx, bench.Config{Server: self, Rate: b.Rate, Clients: b.Clients, For: b.For, IdleFor: b.IdleFor,
		Shop: b.With != "echo", Echo: b.With != "shop"}, out.Out)
}

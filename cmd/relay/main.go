// Command relay publishes the outbox of one database to NATS JetStream. It runs
// beside a service, as a sidecar: what the service has committed to its outbox
// leaves, whatever crashes meanwhile (docs/relay.md).
//
// Exit status: 0 after a clean stop, 2 for a usage or configuration error (one
// line on standard error), 1 for anything else. That Postgres or NATS is away
// is neither: the relay waits.
package main

import (
	"context"
	"io"
	"log/slog"
	"os"
	"time"

	"github.com/skald-saga/skald/internal/program"
)

func main() { os.Exit(run(program.Context(), os.Args[1:], os.Stdout, os.Stderr)) }

// run is the program. It returns its exit status once everything that it
// started has stopped.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	return program.Run(ctx, "relay", "Publishes what a service has committed to its outbox to NATS JetStream.",
		&cli{}, args, program.Streams{Out: stdout, Err: stderr})
}

// cli is the command line.
type cli struct {
	Run         runCmd                 `cmd:"" help:"Publish the outbox until told to stop."`
	Drain       drainCmd               `cmd:"" help:"Publish the rows of a table of another make until told to stop; a file says what its columns mean."`
	Install     installCmd             `cmd:"" help:"Make the tables of the outbox in a database, if they are not there."`
	Status      statusCmd              `cmd:"" help:"Show what waits, what is kept, and where the relay is."`
	Rewind      rewindCmd              `cmd:"" help:"Have published again what was published since then and is still kept."`
	Rebase      rebaseCmd              `cmd:"" help:"Make the outbox of a database that was restored from a dump one that can be published."`
	DeadLetters deadLettersCmd         `cmd:"" help:"Look after the messages that NATS will not take."`
	Bench       benchCmd               `cmd:"" help:"Measure the relay on this machine, on servers that it starts (make bench-relay)."`
	Version     program.VersionCommand `cmd:"" help:"Print the version."`
}

// sidecarFlags are common to the commands that publish. Of the prefix they need
// no more than the subject on which writers may wake them.
type sidecarFlags struct {
	program.DatabaseFlags
	program.NATSFlags
	program.PrefixFlag
	program.PublishFlag
	AdminAddr    string        `help:"Where health, metrics and pprof are served; empty: nowhere." env:"SKALD_RELAY_ADMIN_ADDR" default:"127.0.0.1:9091"`
	DrainTimeout time.Duration `help:"How long the page at hand may take once the relay is told to stop." env:"SKALD_DRAIN_TIMEOUT" default:"20s"`
	LogFormat    string        `help:"json or text." env:"SKALD_LOG_FORMAT" enum:"json,text" default:"json"`
	LogLevel     slog.Level    `help:"debug, info, warn or error." env:"SKALD_LOG_LEVEL" default:"info"`
}

// runCmd is the configuration of `relay run`.
type runCmd struct {
	sidecarFlags
	Retain time.Duration `help:"How long messages are kept after they were published, at least." env:"SKALD_RELAY_RETAIN" default:"30m"`
	Lease  time.Duration `help:"How long its lanes stay with a relay that has died." env:"SKALD_RELAY_LEASE" default:"6s"`
}

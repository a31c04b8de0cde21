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
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime/debug"
	"strings"
	"syscall"

	"github.com/alecthomas/kong"

	"github.com/skald-saga/skald/internal/outbox"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	// A second signal must end a stop that takes too long.
	context.AfterFunc(ctx, stop)
	os.Exit(run(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

// run is the program. It returns its exit status once everything that it
// started has stopped.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	var c cli
	exited := -1
	parser, err := kong.New(&c,
		kong.Name("relay"),
		kong.Description("Publishes what a service has committed to its outbox to NATS JetStream."),
		kong.Writers(stdout, stderr),
		kong.Exit(func(code int) { exited = code }), // only --help
		kong.BindTo(ctx, (*context.Context)(nil)),
		kong.Bind(streams{out: stdout, err: stderr}),
		kong.ConfigureHelp(kong.HelpOptions{Compact: true}),
	)
	if err != nil {
		fmt.Fprintln(stderr, "relay:", err)
		return 1
	}
	command, err := parser.Parse(args)
	switch {
	case exited >= 0:
		return exited
	case err != nil:
		fmt.Fprintln(stderr, "relay:", err)
		return 2
	}
	return status(command.Run(), stderr)
}

// streams are what a command writes to.
type streams struct{ out, err io.Writer }

// usageError is a mistake of whoever started the program.
type usageError struct{ err error }

func (e usageError) Error() string { return e.err.Error() }
func (e usageError) Unwrap() error { return e.err }

func usagef(format string, args ...any) error { return usageError{fmt.Errorf(format, args...)} }

// status says in one line what went wrong.
func status(err error, stderr io.Writer) int {
	if err == nil {
		return 0
	}
	fmt.Fprintln(stderr, "relay:", strings.ReplaceAll(err.Error(), "\n", "; "))
	var usage usageError
	if errors.As(err, &usage) || errors.Is(err, outbox.ErrNoOutbox) {
		return 2
	}
	return 1
}

// cli is the command line.
type cli struct {
	Run     runCmd     `cmd:"" help:"Publish the outbox until told to stop."`
	Version versionCmd `cmd:"" help:"Print the version."`
}

type versionCmd struct{}

// Run prints the version.
func (versionCmd) Run(s streams) error {
	_, err := fmt.Fprintln(s.out, "skald relay", version())
	return err
}

// version is the module's version, as the build recorded it.
func version() string {
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		return info.Main.Version
	}
	return "(devel)"
}

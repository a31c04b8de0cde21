// Command server is Skald's API and engine, and the development set-up around
// them.
//
// Exit status: 0 after a clean stop, 2 for a usage or configuration error (one
// line on standard error), 1 for anything else.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"

	"github.com/alecthomas/kong"

	"github.com/skald-saga/skald/internal/embedded"
	"github.com/skald-saga/skald/migrations"
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
		kong.Name("server"),
		kong.Description("Skald: business transactions across services, all or nothing."),
		kong.Writers(stdout, stderr),
		kong.Exit(func(code int) { exited = code }), // only --help
		kong.BindTo(ctx, (*context.Context)(nil)),
		kong.Bind(streams{out: stdout, err: stderr}),
		kong.ConfigureHelp(kong.HelpOptions{Compact: true}),
	)
	if err != nil {
		fmt.Fprintln(stderr, "server:", err)
		return 1
	}
	command, err := parser.Parse(args)
	switch {
	case exited >= 0:
		return exited
	case err != nil:
		fmt.Fprintln(stderr, "server:", err)
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
	fmt.Fprintln(stderr, "server:", err)
	var usage usageError
	if errors.As(err, &usage) || errors.Is(err, migrations.ErrOldSchema) || errors.Is(err, embedded.ErrNoPostgres) {
		return 2
	}
	return 1
}

// cli is the command line.
type cli struct {
	Serve   serveCmd   `cmd:"" help:"Run the API and the engine against a Postgres and a NATS of yours."`
	Dev     devCmd     `cmd:"" help:"Run everything on this machine: Postgres, NATS, API, engine, relay, participants."`
	Migrate migrateCmd `cmd:"" help:"Bring a database to this program's schema, or take it back."`
	Verify  verifyCmd  `cmd:"" help:"Check that every saga is what its history says; exit status 1 if not."`
	Bench   benchCmd   `cmd:"" help:"Measure the whole of Skald on this machine (make bench)."`
	Version versionCmd `cmd:"" help:"Print the version."`
}

type versionCmd struct{}

// Run prints the version.
func (versionCmd) Run(s streams) error {
	_, err := fmt.Fprintln(s.out, "skald", version())
	return err
}

// version is the module's version, as the build recorded it.
func version() string {
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		return info.Main.Version
	}
	return "(devel)"
}

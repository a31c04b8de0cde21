// Package program is what Skald's commands have in common: how they are
// started, what they say of a mistake, and the flags that mean the same
// everywhere.
package program

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
)

// Streams are what a command writes to.
type Streams struct{ Out, Err io.Writer }

// Context is cancelled by SIGINT, SIGTERM or SIGHUP. A second signal ends the program
// at once: a stop may take too long.
func Context() context.Context {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	context.AfterFunc(ctx, stop)
	return ctx
}

// gcPercent lets the heap grow to three times what is in use instead of twice:
// what lives is small and what is thrown away is much (docs/performance.md).
// The environment's GOGC and GOMEMLIMIT are heeded.
const gcPercent = 200

// Run parses args into cli, a struct of kong commands, and runs the command
// that was chosen: its method Run may take a context.Context and [Streams].
// The result is the exit status: 0 after a clean stop, 2 for a mistake of
// whoever called (see [Usagef]), 1 for anything else; errors are one line.
func Run(ctx context.Context, name, description string, cli any, args []string, s Streams) int {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(gcPercent)
	}
	exited := -1
	parser, err := kong.New(cli,
		kong.Name(name),
		kong.Description(description),
		kong.Writers(s.Out, s.Err),
		kong.Exit(func(code int) { exited = code }), // only --help
		kong.BindTo(ctx, (*context.Context)(nil)),
		kong.Bind(s),
		kong.ConfigureHelp(kong.HelpOptions{Compact: true}),
	)
	if err != nil {
		return status(name, err, s.Err)
	}
	command, err := parser.Parse(args)
	switch {
	case exited >= 0:
		return exited
	case err != nil:
		return status(name, UsageError{err}, s.Err)
	}
	return status(name, command.Run(), s.Err)
}

// UsageError is a mistake of whoever called the program.
type UsageError struct{ Err error }

func (e UsageError) Error() string { return e.Err.Error() }
func (e UsageError) Unwrap() error { return e.Err }

// Usagef returns a [UsageError]. The text begins with the flag to change.
func Usagef(format string, args ...any) error { return UsageError{fmt.Errorf(format, args...)} }

// Lines are mistakes in what the caller gave a command to read, as compilers
// write them: each has a line of its own.
type Lines []string

func (l Lines) Error() string { return strings.Join(l, "\n") }

// status says in one line what went wrong.
func status(name string, err error, stderr io.Writer) int {
	if err == nil {
		return 0
	}
	var lines Lines
	if errors.As(err, &lines) {
		_, _ = fmt.Fprintln(stderr, lines)
		return 2
	}
	_, _ = fmt.Fprintf(stderr, "%s: %s\n", name, strings.ReplaceAll(err.Error(), "\n", "; "))
	var usage UsageError
	if errors.As(err, &usage) {
		return 2
	}
	return 1
}

// Version is the module's version, as the build recorded it.
func Version() string {
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		return info.Main.Version
	}
	return "(devel)"
}

// VersionCommand prints the version.
type VersionCommand struct{}

// Run prints the version.
func (VersionCommand) Run(s Streams) error {
	_, err := fmt.Fprintln(s.Out, "skald", Version())
	return err
}

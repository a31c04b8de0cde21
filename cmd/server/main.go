// Command server is Skald's API and engine, and the development set-up around
// them.
//
// Exit status: 0 after a clean stop, 2 for a usage or configuration error (one
// line on standard error), 1 for anything else.
package main

import (
	"context"
	"io"
	"os"

	"github.com/skald-saga/skald/internal/program"
)

func main() { os.Exit(run(program.Context(), os.Args[1:], os.Stdout, os.Stderr)) }

// run is the program. It returns its exit status once everything that it
// started has stopped.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	return program.Run(ctx, "server", "Skald: business transactions across services, all or nothing.",
		&cli{}, args, program.Streams{Out: stdout, Err: stderr})
}

// cli is the command line.
type cli struct {
	Serve       serveCmd               `cmd:"" help:"Run the API and the engine against a Postgres and a NATS of yours."`
	Dev         devCmd                 `cmd:"" help:"Run everything on this machine: Postgres, NATS, API, engine, relay, participants."`
	Migrate     migrateCmd             `cmd:"" help:"Bring a database to this program's schema, or take it back."`
	Verify      verifyCmd              `cmd:"" help:"Check that every saga is what its history says; exit status 1 if not."`
	Bench       benchCmd               `cmd:"" help:"Measure the whole of Skald on this machine (make bench)."`
	BenchRelay  benchRelayCmd          `cmd:"" hidden:"" help:"What relay bench runs."`
	Definitions definitionsCmd         `cmd:"" help:"Check, or store, the definitions in a folder."`
	Version     program.VersionCommand `cmd:"" help:"Print the version."`
}

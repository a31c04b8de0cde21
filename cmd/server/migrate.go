package main

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/skald-saga/skald/internal/program"
	"github.com/skald-saga/skald/migrations"
)

type migrateCmd struct {
	Up     migrateUpCmd     `cmd:"" help:"Bring the database to the latest version. Safe to run at once from several places."`
	Down   migrateDownCmd   `cmd:"" help:"Take everything back. All data is lost."`
	Status migrateStatusCmd `cmd:"" help:"Print the version; exit status 2 if it is too old."`
}

type migrateUpCmd struct{ databaseFlags }

// Run migrates up.
func (m migrateUpCmd) Run(ctx context.Context) error {
	return m.use(ctx, func(u string, _ *pgxpool.Pool) error { return migrations.Up(ctx, u) })
}

type migrateDownCmd struct {
	databaseFlags
	Yes bool `help:"I know that all data will be lost." required:""`
}

// Run migrates down.
func (m migrateDownCmd) Run(ctx context.Context) error {
	return m.use(ctx, func(u string, _ *pgxpool.Pool) error { return migrations.Down(ctx, u) })
}

type migrateStatusCmd struct{ databaseFlags }

// Run prints the version.
func (m migrateStatusCmd) Run(ctx context.Context, s program.Streams) error {
	return m.use(ctx, func(_ string, pool *pgxpool.Pool) error {
		st, err := migrations.Read(ctx, pool)
		if err != nil {
			return err
		}
		if _, err := fmt.Fprintf(s.Out, "version %d of %d, dirty %t\n", st.Version, migrations.Latest(), st.Dirty); err != nil {
			return err
		}
		return checkSchema(ctx, pool)
	})
}

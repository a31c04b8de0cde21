package migrations_test

import (
	"context"
	"errors"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/skald-saga/skald/internal/testkit"
	"github.com/skald-saga/skald/migrations"
)

func TestMain(m *testing.M) { testkit.Main(m) }

// Every migration can be taken back, and applied again with the same result.
func TestUpDownUpGivesTheSameSchema(t *testing.T) {
	t.Parallel()
	url := testkit.EmptyDatabaseURL(t)
	pool := testkit.Pool(t, url)
	empty := catalog(t, pool)
	for _, step := range []func(context.Context, string) error{migrations.Up, migrations.Down} {
		if err := step(t.Context(), url); err != nil {
			t.Fatal(err)
		}
	}
	if diff := cmp.Diff(empty, catalog(t, pool)); diff != "" {
		t.Errorf("left behind by down:\n%s", diff)
	}
	if err := migrations.Up(t.Context(), url); err != nil {
		t.Fatal(err)
	}
	again := catalog(t, pool)
	if diff := cmp.Diff(catalog(t, testkit.Postgres(t)), again); diff != "" {
		t.Errorf("up, down, up differs from up:\n%s", diff)
	}
	if len(again) < 50 {
		t.Errorf("the catalog has %d lines: does it see the schema at all?", len(again))
	}
}

// Servers that migrate at the same time wait for each other.
func TestSeveralProcessesMayMigrateAtOnce(t *testing.T) {
	t.Parallel()
	url := testkit.EmptyDatabaseURL(t)
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			if err := migrations.Up(t.Context(), url); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if err := migrations.Check(t.Context(), testkit.Pool(t, url)); err != nil {
		t.Error(err)
	}
}

func TestCheckRefusesAnOlderOrHalfMigratedSchema(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		change string
		want   error
	}{
		"up to date":      {`SELECT 1`, nil},
		"newer":           {`UPDATE schema_migrations SET version = version + 1`, nil},
		"older":           {`UPDATE schema_migrations SET version = version - 1`, migrations.ErrOldSchema},
		"half migrated":   {`UPDATE schema_migrations SET dirty = true`, migrations.ErrOldSchema},
		"never migrated":  {`DROP TABLE schema_migrations`, migrations.ErrOldSchema},
		"taken all down":  {`DELETE FROM schema_migrations`, migrations.ErrOldSchema},
		"version of zero": {`UPDATE schema_migrations SET version = 0`, migrations.ErrOldSchema},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			pool := testkit.Postgres(t)
			if _, err := pool.Exec(t.Context(), c.change); err != nil {
				t.Fatal(err)
			}
			if err := migrations.Check(t.Context(), pool); !errors.Is(err, c.want) {
				t.Errorf("got %v, want %v", err, c.want)
			}
		})
	}
}

// catalog lists columns, indexes, constraints and functions, a line each.
func catalog(t *testing.T, pool *pgxpool.Pool) []string {
	t.Helper()
	rows, err := pool.Query(t.Context(), `
		SELECT format('column %s.%s %s %s %s', table_name, column_name, data_type, is_nullable, column_default)
		FROM information_schema.columns WHERE table_schema = 'public' AND table_name <> 'schema_migrations'
		UNION ALL SELECT indexdef FROM pg_indexes WHERE schemaname = 'public' AND tablename <> 'schema_migrations'
		UNION ALL SELECT format('constraint %s %s', conname, pg_get_constraintdef(oid)) FROM pg_constraint
			WHERE connamespace = 'public'::regnamespace AND conrelid <> coalesce(to_regclass('schema_migrations'), 0)
		UNION ALL SELECT pg_get_functiondef(oid) FROM pg_proc WHERE pronamespace = 'public'::regnamespace
		UNION ALL SELECT format('options %s %s', relname, reloptions) FROM pg_class WHERE relnamespace = 'public'::regnamespace AND reloptions IS NOT NULL
		ORDER BY 1`)
	if err != nil {
		t.Fatal(err)
	}
	lines, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		t.Fatal(err)
	}
	return lines
}

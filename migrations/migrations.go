// Package migrations holds the schema and brings databases up to it. Migrating
// is a command of its own; programs only check (see [Check]).
package migrations

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"strconv"
	"strings"

	"github.com/golang-migrate/migrate/v4"
	_ "github.com/golang-migrate/migrate/v4/database/pgx/v5" // the pgx5:// scheme
	"github.com/golang-migrate/migrate/v4/source/iofs"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
)

// Files are the migrations, NNNNNN_verb_noun.up.sql and .down.sql.
//
//go:embed *.sql
var Files embed.FS

// Latest is the version that this program was built with.
func Latest() uint {
	var latest uint
	names, _ := fs.Glob(Files, "*.up.sql") // the pattern is well-formed
	for _, name := range names {
		number, _, _ := strings.Cut(name, "_")
		if v, err := strconv.ParseUint(number, 10, 32); err == nil {
			latest = max(latest, uint(v))
		}
	}
	return latest
}

// Up brings the database to the latest version. Several processes may call it
// at once: they queue on a lock in the database.
func Up(ctx context.Context, databaseURL string) error {
	return run(ctx, databaseURL, (*migrate.Migrate).Up)
}

// Down takes everything back, data included.
func Down(ctx context.Context, databaseURL string) error {
	return run(ctx, databaseURL, (*migrate.Migrate).Down)
}

func run(ctx context.Context, databaseURL string, do func(*migrate.Migrate) error) (err error) {
	u, err := url.Parse(databaseURL)
	if err != nil || (u.Scheme != "postgres" && u.Scheme != "postgresql") {
		return errors.New("migrate: the database URL must begin with postgres://")
	}
	u.Scheme = "pgx5"
	src, err := iofs.New(Files, ".")
	if err != nil {
		return fmt.Errorf("read migrations: %w", err)
	}
	m, err := migrate.NewWithSourceInstance("embedded", src, u.String())
	if err != nil {
		return fmt.Errorf("migrate: %w", err)
	}
	defer func() {
		srcErr, dbErr := m.Close() // a database in use cannot become a template
		err = errors.Join(err, srcErr, dbErr)
	}()
	stop := context.AfterFunc(ctx, func() { m.GracefulStop <- true })
	defer stop()
	if err := do(m); err != nil && !errors.Is(err, migrate.ErrNoChange) {
		return fmt.Errorf("migrate: %w", err)
	}
	return nil
}

// Status is the version of a database.
type Status struct {
	Version uint // 0: none
	Dirty   bool // a migration failed half-way
}

// Read returns a database's version.
func Read(ctx context.Context, pool *pgxpool.Pool) (Status, error) {
	var s Status
	err := pool.QueryRow(ctx, `SELECT version, dirty FROM schema_migrations`).Scan(&s.Version, &s.Dirty)
	var pgErr *pgconn.PgError
	if errors.Is(err, pgx.ErrNoRows) || (errors.As(err, &pgErr) && pgErr.Code == "42P01") { // undefined table
		return Status{}, nil
	}
	if err != nil {
		return Status{}, fmt.Errorf("read schema version: %w", err)
	}
	return s, nil
}

// ErrOldSchema says that the database must be migrated first.
var ErrOldSchema = errors.New("the database schema is too old")

// Check refuses a database that is older than this program, or half migrated,
// with [ErrOldSchema]. A newer one is accepted: a migration must leave the
// programs before it working.
func Check(ctx context.Context, pool *pgxpool.Pool) error {
	s, err := Read(ctx, pool)
	switch {
	case err != nil:
		return err
	case s.Dirty:
		return fmt.Errorf("%w: migration %d failed half-way; mend it by hand", ErrOldSchema, s.Version)
	case s.Version < Latest():
		return fmt.Errorf("%w: it has version %d, this program needs %d; run `server migrate up`", ErrOldSchema, s.Version, Latest())
	}
	return nil
}

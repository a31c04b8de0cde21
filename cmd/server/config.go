package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/skald-saga/skald/internal/program"
	"github.com/skald-saga/skald/internal/telemetry"
	"github.com/skald-saga/skald/migrations"
)

// databaseFlags say which database a command works on.
type databaseFlags struct{ program.DatabaseFlags }

// use opens the database for one command.
func (d databaseFlags) use(ctx context.Context, do func(url string, pool *pgxpool.Pool) error) error {
	u, err := d.URL()
	if err != nil {
		return err
	}
	pool, err := openPool(ctx, u, 4)
	if err != nil {
		return err
	}
	defer pool.Close()
	return do(u, pool)
}

// openPool opens no connection yet.
func openPool(ctx context.Context, url string, connections int32) (*pgxpool.Pool, error) {
	cfg, err := program.PoolConfig(url, "skald", connections)
	if err != nil {
		return nil, err
	}
	pool, err := pgxpool.NewWithConfig(ctx, cfg)
	if err != nil {
		return nil, fmt.Errorf("open database: %w", err)
	}
	return pool, nil
}

// checkSchema refuses a database that must be migrated first.
func checkSchema(ctx context.Context, pool *pgxpool.Pool) error {
	err := migrations.Check(ctx, pool)
	if errors.Is(err, migrations.ErrOldSchema) {
		return program.UsageError{Err: err}
	}
	return err
}

// engineFlags are common to serve and dev.
type engineFlags struct {
	program.PrefixFlag
	program.PublishFlag
	HTTPAddr          string        `help:"Where the API listens." env:"SKALD_HTTP_ADDR" default:"127.0.0.1:8080"`
	InsecureNoAuth    bool          `help:"Listen beyond this machine although the API asks nobody who they are." env:"SKALD_INSECURE_NO_AUTH"`
	Definitions       string        `help:"A folder with saga definitions (*.yaml, *.yml, *.json); default: the built-in ones." env:"SKALD_DEFINITIONS" placeholder:"DIR"`
	DatabaseConns     int32         `help:"Most database connections." env:"SKALD_DATABASE_CONNS" default:"16"`
	MaxOutboxRows     int64         `help:"Refuse new sagas while so many messages wait in the outbox; 0: never." env:"SKALD_MAX_OUTBOX_ROWS" default:"1000000"`
	MaxOutboxBytes    int64         `help:"Refuse new sagas while the messages that wait take so many bytes; 0: never." env:"SKALD_MAX_OUTBOX_BYTES" default:"4294967296"`
	DrainTimeout      time.Duration `help:"How long open requests may take once the server is told to stop." env:"SKALD_DRAIN_TIMEOUT" default:"10s"`
	LogFormat         string        `help:"json, text, or auto: text in dev, else json." env:"SKALD_LOG_FORMAT" enum:"auto,json,text" default:"auto"`
	LogLevel          slog.Level    `help:"debug, info, warn or error." env:"SKALD_LOG_LEVEL" default:"info"`
	JetStreamReplicas int           `help:"Replicas of the streams that this server creates." env:"SKALD_JETSTREAM_REPLICAS" default:"1" name:"jetstream-replicas"`
}

func (f engineFlags) validate() error {
	if f.DatabaseConns < 5 {
		return program.Usagef("--database-conns: must be at least 5")
	}
	if f.MaxOutboxRows < 0 || f.MaxOutboxBytes < 0 {
		return program.Usagef("--max-outbox-rows and --max-outbox-bytes: must not be negative")
	}
	if f.DrainTimeout < 0 {
		return program.Usagef("--drain-timeout: must not be negative")
	}
	if f.JetStreamReplicas < 1 || f.JetStreamReplicas > 5 {
		return program.Usagef("--jetstream-replicas: must be 1 to 5")
	}
	if err := program.CheckPrefix(f.Prefix); err != nil {
		return err
	}
	if !f.InsecureNoAuth && !loopback(f.HTTPAddr) {
		return program.Usagef("--http-addr %s can be reached from elsewhere, and the API asks nobody who they are: choose a loopback address, or say --insecure-no-auth", f.HTTPAddr)
	}
	return nil
}

func loopback(addr string) bool {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return true // refused when it is listened on
	}
	if host == "localhost" {
		return true
	}
	ip, err := netip.ParseAddr(host)
	return err == nil && ip.IsLoopback()
}

// logger writes to standard error.
func (f engineFlags) logger(s program.Streams, format string) *slog.Logger {
	if f.LogFormat != "auto" {
		format = f.LogFormat
	}
	return telemetry.NewLogger(s.Err, format, f.LogLevel)
}

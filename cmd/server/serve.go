package main

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/nats-io/nats.go"

	"github.com/skald-saga/skald/internal/bus"
	"github.com/skald-saga/skald/internal/program"
	"github.com/skald-saga/skald/internal/telemetry"
	"github.com/skald-saga/skald/migrations"
)

type serveCmd struct {
	databaseFlags
	engineFlags
	program.NATSFlags
	AdminAddr string `help:"Where health, metrics and pprof are served; empty: nowhere." env:"SKALD_ADMIN_ADDR" default:"127.0.0.1:9090"`
	WithRelay bool   `help:"Publish the outbox from this process too, without a relay beside it." env:"SKALD_WITH_RELAY"`
}

// Run serves until ctx is cancelled.
func (s *serveCmd) Run(ctx context.Context, out program.Streams) error {
	if err := s.validate(); err != nil {
		return err
	}
	connect, err := s.NATSFlags.Options()
	if err != nil {
		return err
	}
	url, err := s.URL()
	if err != nil {
		return err
	}
	defs, err := loadDefinitions(s.Definitions)
	if err != nil {
		return err
	}
	api, admin, err := s.listen(s.AdminAddr)
	if err != nil {
		return err
	}
	log := s.logger(out, "json")
	pool, err := openPool(ctx, url, s.DatabaseConns)
	if err != nil {
		return err
	}
	defer pool.Close()
	e := &engine{
		flags: s.engineFlags, definitions: defs, pool: pool, log: log, registry: telemetry.NewRegistry(),
		withRelay: s.WithRelay, api: api, admin: admin,
	}
	e.prepare = func(ctx context.Context) (err error) {
		if err = awaitSchema(ctx, pool, log); err == nil && ctx.Err() == nil {
			e.nc, err = connectNATS(s.NATSURL, log, connect)
		}
		return err
	}
	defer func() {
		if e.nc != nil {
			e.nc.Close()
		}
	}()
	return e.run(ctx)
}

// listen opens the ports that people asked for, before anything slow begins.
func (f engineFlags) listen(adminAddr string) (api, admin net.Listener, err error) {
	if api, err = program.Listen("http-addr", f.HTTPAddr); err != nil {
		return nil, nil, err
	}
	if adminAddr == "" {
		return api, nil, nil
	}
	if admin, err = program.Listen("admin-addr", adminAddr); err != nil {
		return nil, nil, errors.Join(err, api.Close())
	}
	return api, admin, nil
}

func connectNATS(url string, log *slog.Logger, options []nats.Option) (*nats.Conn, error) {
	nc, err := bus.Connect(url, "skald-server", log, options...)
	if err != nil {
		return nil, program.Usagef("--nats-url: %w", err)
	}
	return nc, nil
}

// awaitSchema waits until the database answers, and refuses an older schema.
func awaitSchema(ctx context.Context, pool *pgxpool.Pool, log *slog.Logger) error {
	for delay := 250 * time.Millisecond; ; delay = min(2*delay, 5*time.Second) {
		err := checkSchema(ctx, pool)
		if err == nil || errors.Is(err, migrations.ErrOldSchema) {
			return err
		}
		if ctx.Err() != nil {
			return nil
		}
		log.Warn("waiting for the database", "err", err)
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(delay):
		}
	}
}

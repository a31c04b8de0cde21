package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/nats-io/nats.go"

	"github.com/skald-saga/skald/internal/bus"
	"github.com/skald-saga/skald/internal/outbox"
	"github.com/skald-saga/skald/internal/telemetry"
)

// Run publishes until ctx is cancelled, then finishes the page at hand.
func (c *runCmd) Run(ctx context.Context, out streams) error {
	if err := c.validate(); err != nil {
		return err
	}
	cfg, err := c.database()
	if err != nil {
		return err
	}
	ln, err := c.listen()
	if err != nil {
		return err
	}
	log := telemetry.NewLogger(out.err, c.LogFormat, c.LogLevel)
	pool, err := pgxpool.NewWithConfig(context.WithoutCancel(ctx), cfg)
	if err != nil {
		return fmt.Errorf("open database: %w", err)
	}
	closed := make(chan struct{})
	nc, err := bus.Connect(c.NATSURL, "skald-relay", log, nats.ClosedHandler(func(*nats.Conn) { close(closed) }))
	if err != nil {
		pool.Close()
		return usagef("--nats-url: %w", err)
	}
	p := &program{pool: pool, nc: nc, closed: closed, log: log, prefix: c.Prefix, admin: ln}
	return p.run(ctx, c.DrainTimeout)
}

// program is a relay with its connections and its admin port.
type program struct {
	pool   *pgxpool.Pool
	nc     *nats.Conn
	closed <-chan struct{} // closed when nc is, for good
	log    *slog.Logger
	prefix string
	admin  net.Listener // may be nil
}

// run works until ctx is cancelled or something is wrong that waiting cannot
// mend.
func (p *program) run(ctx context.Context, drain time.Duration) error {
	registry := telemetry.NewRegistry()
	health := telemetry.NewHealth(p.log, map[string]telemetry.Check{
		"database": func(ctx context.Context) error { return outbox.Check(ctx, p.pool) },
		"nats":     p.natsReady,
	})
	var admin *http.Server
	served := make(chan error, 1)
	if p.admin != nil {
		admin = &http.Server{Handler: telemetry.Admin(health, registry), ReadHeaderTimeout: 5 * time.Second}
		go func() { served <- admin.Serve(p.admin) }()
		p.log.Info("serving health and metrics", "addr", p.admin.Addr().String())
	}
	work, stop := context.WithCancel(ctx)
	defer stop()
	worked := make(chan error, 1)
	go func() { worked <- p.work(work, outbox.NewMetrics(registry)) }()

	var err error
	finished := false
	select {
	case <-ctx.Done():
	case err = <-worked:
		finished = true
	case err = <-served:
		err = fmt.Errorf("serve health and metrics: %w", err)
	case <-p.closed:
		// Client and server do not understand each other; a new process begins anew.
		err = errors.Join(errors.New("the connection to NATS was closed for good"), p.nc.LastError())
	}
	stop()
	health.Drain()
	if !finished {
		p.log.Info("draining", "limit", drain)
		err = errors.Join(err, p.await(worked, drain))
	}
	if admin != nil {
		_ = admin.Close() // a probe that is cut off asks again, elsewhere
	}
	if err == nil {
		p.nc.Close()
		p.pool.Close()
		p.log.Info("stopped")
	}
	return err // the rest ends with the process
}

// await waits for the page at hand.
func (p *program) await(worked <-chan error, limit time.Duration) error {
	select {
	case err := <-worked:
		return err
	case <-time.After(limit):
		return errors.New("the page at hand was not done within --drain-timeout; it will be published again")
	}
}

// work publishes once there is an outbox to publish.
func (p *program) work(ctx context.Context, metrics *outbox.Metrics) error {
	if err := p.awaitOutbox(ctx); err != nil || ctx.Err() != nil {
		return err
	}
	publisher, err := bus.NewPublisher(p.nc)
	if err != nil {
		return err
	}
	wake, err := bus.SubscribeWake(p.nc, p.prefix)
	if err != nil {
		return err
	}
	p.log.Info("publishing the outbox")
	relay := &outbox.Relay{Pool: p.pool, Publisher: publisher, Log: p.log, Wake: wake, Metrics: metrics}
	return relay.Run(ctx)
}

// awaitOutbox waits until the database answers, and refuses one that has no
// outbox.
func (p *program) awaitOutbox(ctx context.Context) error {
	for delay := 100 * time.Millisecond; ; delay = min(2*delay, 2*time.Second) {
		err := outbox.Check(ctx, p.pool)
		if err == nil || errors.Is(err, outbox.ErrNoOutbox) {
			return err
		}
		if ctx.Err() != nil {
			return nil
		}
		p.log.Warn("waiting for the database", "err", err, "retry_in", delay)
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(delay):
		}
	}
}

func (p *program) natsReady(context.Context) error {
	if p.nc.IsConnected() {
		return nil
	}
	return errors.Join(errors.New("not connected to NATS"), p.nc.LastError())
}

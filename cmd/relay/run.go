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
	"github.com/skald-saga/skald/internal/program"
	"github.com/skald-saga/skald/internal/telemetry"
)

// Run publishes until ctx is cancelled, then finishes the page at hand.
func (c *runCmd) Run(ctx context.Context, out program.Streams) error {
	if c.DrainTimeout < 0 {
		return program.Usagef("--drain-timeout: must not be negative")
	}
	if c.Retain < time.Second {
		return program.Usagef("--retain: must be at least 1s")
	}
	if c.Lease < time.Second || c.Lease > time.Hour {
		return program.Usagef("--lease: must be from 1s to 1h")
	}
	if err := program.CheckNATSURL(c.NATSURL); err != nil {
		return err
	}
	if err := program.CheckPrefix(c.Prefix); err != nil {
		return err
	}
	url, err := c.URL()
	if err != nil {
		return err
	}
	cfg, err := program.PoolConfig(url, "skald-relay", connections)
	if err != nil {
		return err
	}
	var admin net.Listener
	if c.AdminAddr != "" {
		if admin, err = program.Listen("admin-addr", c.AdminAddr); err != nil {
			return err
		}
	}
	log := telemetry.NewLogger(out.Err, c.LogFormat, c.LogLevel)
	pool, err := pgxpool.NewWithConfig(context.WithoutCancel(ctx), cfg)
	if err != nil {
		return fmt.Errorf("open database: %w", err)
	}
	closed := make(chan struct{})
	nc, err := bus.Connect(c.NATSURL, "skald-relay", log, nats.ClosedHandler(func(*nats.Conn) { close(closed) }))
	if err != nil {
		pool.Close()
		return program.Usagef("--nats-url: %w", err)
	}
	s := &sidecar{
		pool: pool, nc: nc, closed: closed, log: log, prefix: c.Prefix,
		publish: bus.Method(c.Publish), retain: c.Retain, lease: c.Lease, admin: admin,
	}
	return s.run(ctx, c.DrainTimeout)
}

// connections are few: one is at work, one asks how things are. The rest are
// for the moment in which both have just been lost.
const connections = 4

// sidecar is a relay with its connections and its admin port.
type sidecar struct {
	pool    *pgxpool.Pool
	nc      *nats.Conn
	closed  <-chan struct{} // closed when nc is, for good
	log     *slog.Logger
	prefix  string
	publish bus.Method
	retain  time.Duration
	lease   time.Duration
	admin   net.Listener // may be nil
}

// run works until ctx is cancelled or something is wrong that waiting cannot
// mend.
func (s *sidecar) run(ctx context.Context, drain time.Duration) error {
	registry := telemetry.NewRegistry()
	health := telemetry.NewHealth(s.log, map[string]telemetry.Check{
		"database": func(ctx context.Context) error { return outbox.Check(ctx, s.pool) },
		"nats":     s.natsReady,
	})
	var admin *http.Server
	served := make(chan error, 1)
	if s.admin != nil {
		admin = &http.Server{Handler: telemetry.Admin(health, registry), ReadHeaderTimeout: 5 * time.Second}
		go func() { served <- admin.Serve(s.admin) }()
		s.log.Info("serving health and metrics", "addr", s.admin.Addr().String())
	}
	work, stop := context.WithCancel(ctx)
	defer stop()
	worked := make(chan error, 1)
	go func() { worked <- s.work(work, outbox.NewMetrics(registry)) }()

	var err error
	finished := false
	select {
	case <-ctx.Done():
	case err = <-worked:
		finished = true
	case err = <-served:
		err = fmt.Errorf("serve health and metrics: %w", err)
	case <-s.closed:
		// Client and server do not understand each other; a new process begins anew.
		err = errors.Join(errors.New("the connection to NATS was closed for good"), s.nc.LastError())
	}
	stop()
	health.Drain()
	if !finished {
		s.log.Info("draining", "limit", drain)
		err = errors.Join(err, s.await(worked, drain))
	}
	if admin != nil {
		_ = admin.Close() // a probe that is cut off asks again, elsewhere
	}
	if err == nil {
		s.nc.Close()
		s.pool.Close()
		s.log.Info("stopped")
	}
	return err // the rest ends with the process
}

// await waits for the page at hand.
func (s *sidecar) await(worked <-chan error, limit time.Duration) error {
	select {
	case err := <-worked:
		return err
	case <-time.After(limit):
		return errors.New("the page at hand was not done within --drain-timeout; it will be published again")
	}
}

// work publishes once there is an outbox to publish.
func (s *sidecar) work(ctx context.Context, metrics *outbox.Metrics) error {
	if err := s.awaitOutbox(ctx); err != nil || ctx.Err() != nil {
		return err
	}
	publisher, err := bus.NewPublisher(s.nc)
	if err != nil {
		return err
	}
	publisher.Method = s.publish
	waker, wake := bus.NewWaker(s.nc, s.prefix), make(chan struct{}, 1)
	if err := waker.Listen(wake); err != nil {
		return err
	}
	s.log.Info("publishing the outbox")
	relay := &outbox.Relay{
		Pool: s.pool, Publisher: publisher, Log: s.log, Wake: wake, Freed: waker.Now, Metrics: metrics, Retain: s.retain, Lease: s.lease,
	}
	return relay.Run(ctx)
}

// awaitOutbox waits until the database answers, and refuses one that has no
// outbox.
func (s *sidecar) awaitOutbox(ctx context.Context) error {
	for delay := 100 * time.Millisecond; ; delay = min(2*delay, 2*time.Second) {
		err := outbox.Check(ctx, s.pool)
		switch {
		case err == nil:
			return nil
		case errors.Is(err, outbox.ErrNoOutbox):
			return program.UsageError{Err: err}
		}
		if ctx.Err() != nil {
			return nil
		}
		s.log.Warn("waiting for the database", "err", err, "retry_in", delay)
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(delay):
		}
	}
}

func (s *sidecar) natsReady(context.Context) error {
	if s.nc.IsConnected() {
		return nil
	}
	return errors.Join(errors.New("not connected to NATS"), s.nc.LastError())
}

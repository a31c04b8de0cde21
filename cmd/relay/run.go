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
	"github.com/prometheus/client_golang/prometheus"

	"github.com/skald-saga/skald/internal/bus"
	"github.com/skald-saga/skald/internal/outbox"
	"github.com/skald-saga/skald/internal/program"
	"github.com/skald-saga/skald/internal/telemetry"
)

// Run publishes until ctx is cancelled, then finishes the page at hand.
func (c *runCmd) Run(ctx context.Context, out program.Streams) error {
	if c.Retain < time.Second {
		return program.Usagef("--retain: must be at least 1s")
	}
	if c.Lease < time.Second || c.Lease > time.Hour {
		return program.Usagef("--lease: must be from 1s to 1h")
	}
	return c.serve(ctx, out, job{
		check: outbox.Check,
		usage: outbox.ErrNoOutbox,
		publish: func(ctx context.Context, t tools) error {
			t.log.Info("publishing the outbox")
			outbox.NewState(t.pool, t.registry)
			relay := &outbox.Relay{
				Pool: t.pool, Publisher: t.publisher, Log: t.log, Wake: t.wake, Freed: t.freed, Metrics: outbox.NewMetrics(t.registry),
				Retain: c.Retain, Lease: c.Lease,
			}
			return relay.Run(ctx)
		},
	})
}

// job is what a sidecar is for.
type job struct {
	check   func(context.Context, *pgxpool.Pool) error // asked at the start and by readiness probes
	usage   error                                      // of check's errors, those that waiting does not mend
	publish func(context.Context, tools) error
}

// tools are what a job works with.
type tools struct {
	pool      *pgxpool.Pool
	publisher *bus.Publisher
	wake      <-chan struct{}
	freed     func() // tells other relays that there is work to take
	registry  *prometheus.Registry
	log       *slog.Logger
}

// serve does a job until ctx is cancelled.
func (c *sidecarFlags) serve(ctx context.Context, out program.Streams, j job) error {
	if c.DrainTimeout < 0 {
		return program.Usagef("--drain-timeout: must not be negative")
	}
	connect, err := c.NATSFlags.Options()
	if err != nil {
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
	nc, err := bus.Connect(c.NATSURL, "skald-relay", log, append(connect, nats.ClosedHandler(func(*nats.Conn) { close(closed) }))...)
	if err != nil {
		pool.Close()
		return program.Usagef("--nats-url: %w", err)
	}
	s := &sidecar{
		pool: pool, nc: nc, closed: closed, log: log, prefix: c.Prefix, publish: bus.Method(c.Publish), job: j, admin: admin,
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
	job     job
	admin   net.Listener // may be nil
}

// run works until ctx is cancelled or something is wrong that waiting cannot
// mend.
func (s *sidecar) run(ctx context.Context, drain time.Duration) error {
	registry := telemetry.NewRegistry()
	health := telemetry.NewHealth(s.log, map[string]telemetry.Check{
		"database": func(ctx context.Context) error { return s.job.check(ctx, s.pool) },
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
	go func() { worked <- s.work(work, registry) }()

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

// work publishes once there is something to publish from.
func (s *sidecar) work(ctx context.Context, registry *prometheus.Registry) error {
	if err := s.awaitTable(ctx); err != nil || ctx.Err() != nil {
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
	return s.job.publish(ctx, tools{pool: s.pool, publisher: publisher, wake: wake, freed: waker.Now, registry: registry, log: s.log})
}

// awaitTable waits until the database answers, and refuses one that does not
// have what is to be published.
func (s *sidecar) awaitTable(ctx context.Context) error {
	for delay := 100 * time.Millisecond; ; delay = min(2*delay, 2*time.Second) {
		err := s.job.check(ctx, s.pool)
		switch {
		case err == nil:
			return nil
		case errors.Is(err, s.job.usage):
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

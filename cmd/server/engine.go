package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	stdhttp "net/http"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"github.com/skald-saga/skald/internal/bus"
	"github.com/skald-saga/skald/internal/coordinator"
	"github.com/skald-saga/skald/internal/http"
	"github.com/skald-saga/skald/internal/outbox"
	"github.com/skald-saga/skald/internal/program"
	"github.com/skald-saga/skald/internal/saga"
	"github.com/skald-saga/skald/internal/telemetry"
)

// engine is the API, the coordinator and, if wanted, a relay, on a database
// and a NATS that others look after.
type engine struct {
	flags       engineFlags
	definitions []*saga.Definition
	pool        *pgxpool.Pool
	nc          *nats.Conn
	log         *slog.Logger
	registry    *prometheus.Registry
	withRelay   bool
	dev         bool                        // metrics and profiles on the API's port too
	api, admin  net.Listener                // admin may be nil
	prepare     func(context.Context) error // waits for the database and sets nc; nil: both are there
	ready       func()                      // called when sagas can be started; may be nil

	started atomic.Bool // everything is there
	js      jetstream.JetStream
	waker   *bus.Waker
	keeper  *bus.Keeper
}

// run works until ctx is cancelled: then it refuses new requests, lets those
// that are open finish, and stops the rest. It serves at once, so that whoever
// asks how it is while it waits for the database gets an answer.
func (e *engine) run(ctx context.Context) error {
	c, wake := e.coordinator()
	// The engine outlives ctx: what open requests have begun must be finished.
	work, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	g, work := errgroup.WithContext(work)
	g.Go(func() error {
		defer stop()
		return e.serve(ctx, work, c)
	})
	g.Go(func() error {
		if e.prepare != nil {
			if err := e.prepare(ctx); err != nil || ctx.Err() != nil {
				return err
			}
		}
		return interrupted(ctx, e.start(ctx, work, g, c, wake))
	})
	return g.Wait()
}

// coordinator also returns what wakes a relay in this process. Other relays
// are woken by NATS, once there is a connection.
func (e *engine) coordinator() (c *coordinator.Coordinator, wake chan struct{}) {
	wake = make(chan struct{}, 1)
	return coordinator.New(coordinator.Config{
		Pool: e.pool, Log: e.log, Prefix: e.flags.Prefix, Metrics: coordinator.NewMetrics(e.registry),
		MaxOutboxRows: e.flags.MaxOutboxRows, MaxOutboxBytes: e.flags.MaxOutboxBytes,
		Wake: func() {
			e.waker.Wake()
			select {
			case wake <- struct{}{}:
			default:
			}
		},
		Defined: func() {
			if e.keeper != nil { // else it has not looked yet
				e.keeper.Poke()
			}
		},
	}), wake
}

// start starts everything but the API in g, and tells the API when all is there.
func (e *engine) start(ctx, work context.Context, g *errgroup.Group, c *coordinator.Coordinator, wake chan struct{}) error {
	if err := c.Register(ctx, e.definitions...); err != nil {
		return err
	}
	names, err := c.Participants(ctx)
	if err != nil {
		return err
	}
	if e.keeper, err = bus.NewKeeper(e.nc, e.topology(names), e.log); err != nil {
		return err
	}
	e.keeper.Participants = c.Participants
	js, err := jetstream.New(e.nc)
	if err != nil {
		return fmt.Errorf("use JetStream: %w", err)
	}
	e.js = js
	publisher, err := bus.NewPublisher(e.nc)
	if err != nil {
		return err
	}
	e.waker = bus.NewWaker(e.nc, e.flags.Prefix) // before the coordinator runs: it wakes
	replies := bus.ReplyConsumer{Prefix: e.flags.Prefix, JS: js, Log: e.log, Missing: e.keeper.Poke}
	g.Go(func() error { return c.Run(work) })
	g.Go(func() error { return e.keeper.Run(work) })
	g.Go(func() error { return e.waker.Run(work) })
	g.Go(func() error { return replies.Run(work, handle(c)) })
	g.Go(func() error { return untilClosed(work, e.nc) })
	if e.withRelay {
		publisher.Missing, publisher.Method = e.keeper.Poke, bus.Method(e.flags.Publish)
		if err := e.waker.Listen(wake); err != nil { // to servers whose relay waits, or that have none
			return err
		}
		relay := &outbox.Relay{
			Pool: e.pool, Publisher: publisher, Log: e.log, Wake: wake, Freed: e.waker.Now, Metrics: outbox.NewMetrics(e.registry),
		}
		outbox.NewState(e.pool, e.registry)
		g.Go(func() error { return relay.Run(work) })
	}
	e.started.Store(true)
	e.log.Info("serving", "http", e.api.Addr().String(), "relay", e.withRelay)
	if e.ready != nil {
		e.ready()
	}
	return nil
}

// untilClosed returns an error if the connection is closed for good, which the
// client does when it does not understand the server: an engine that hears
// nothing must end, and be started again.
func untilClosed(ctx context.Context, nc *nats.Conn) error {
	closed := make(chan struct{})
	nc.SetClosedHandler(func(*nats.Conn) { close(closed) })
	if !nc.IsClosed() {
		select {
		case <-ctx.Done():
			return nil
		case <-closed:
		}
	}
	return fmt.Errorf("the connection to NATS was closed for good: %w", nc.LastError())
}

// topology is what must exist in JetStream.
func (e *engine) topology(participants []string) bus.Topology {
	return bus.Topology{Prefix: e.flags.Prefix, Participants: participants, Replicas: e.flags.JetStreamReplicas}
}

// lag says how far participants are behind.
func (e *engine) lag(ctx context.Context, participants []string) (map[string]http.Lag, error) {
	found, err := bus.Lags(ctx, e.js, e.flags.Prefix, participants)
	lags := make(map[string]http.Lag, len(found))
	for name, lag := range found {
		lags[name] = http.Lag(lag)
	}
	return lags, err
}

// handle gives replies to the coordinator.
func handle(c *coordinator.Coordinator) func(context.Context, []bus.Delivery) error {
	return func(ctx context.Context, in []bus.Delivery) error {
		deliveries := make([]coordinator.Delivery, len(in))
		for i, d := range in {
			deliveries[i] = coordinator.Delivery(d)
		}
		return c.HandleReplies(ctx, deliveries)
	}
}

// serve answers requests until ctx is cancelled or the engine fails, then
// drains.
func (e *engine) serve(ctx, work context.Context, c *coordinator.Coordinator) error {
	health := telemetry.NewHealth(e.log, map[string]telemetry.Check{"database": func(ctx context.Context) error {
		if !e.started.Load() {
			return errors.New("the engine waits for the database")
		}
		return c.Ready(ctx)
	}})
	stopping := make(chan struct{})
	cfg := http.Config{
		Sagas: c, Log: e.log, Health: health, Registerer: e.registry, Version: program.Version(),
		Started: e.started.Load, Stopping: stopping, Lag: e.lag,
	}
	if e.dev {
		cfg.Admin = telemetry.Admin(health, e.registry)
	}
	handler, err := http.New(cfg)
	if err != nil {
		return err
	}
	api := newServer(handler)
	servers := []*stdhttp.Server{api}
	failed := make(chan error, 2)
	go func() { failed <- api.Serve(e.api) }()
	if e.admin != nil {
		admin := newServer(telemetry.Admin(health, e.registry))
		servers = append(servers, admin)
		go func() { failed <- admin.Serve(e.admin) }()
	}
	select {
	case err = <-failed:
		err = fmt.Errorf("serve HTTP: %w", err)
	case <-work.Done(): // the engine has failed and says why itself
	case <-ctx.Done():
		e.log.Info("draining", "limit", e.flags.DrainTimeout)
	}
	health.Drain()
	close(stopping)
	drain, cancel := context.WithTimeout(context.WithoutCancel(ctx), e.flags.DrainTimeout)
	defer cancel()
	for _, s := range servers {
		if shutdownErr := s.Shutdown(drain); shutdownErr != nil {
			err = errors.Join(err, fmt.Errorf("requests were cut off by --drain-timeout: %w", shutdownErr), s.Close())
		}
	}
	if e.started.Load() {
		e.log.Info("stopped")
	}
	return err
}

func newServer(h stdhttp.Handler) *stdhttp.Server {
	return &stdhttp.Server{
		Handler: h, ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 30 * time.Second, IdleTimeout: 2 * time.Minute,
		MaxHeaderBytes: 64 << 10,
	}
}

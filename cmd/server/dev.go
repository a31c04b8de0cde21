package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"github.com/skald-saga/skald/examples/order/shop"
	"github.com/skald-saga/skald/internal/embedded"
	"github.com/skald-saga/skald/internal/program"
	"github.com/skald-saga/skald/internal/telemetry"
	"github.com/skald-saga/skald/migrations"
)

type devCmd struct {
	engineFlags
	AdminAddr    string `help:"Where health, metrics and pprof are served; default: only on the API's port." env:"SKALD_ADMIN_ADDR"`
	NATSAddr     string `name:"nats-addr" help:"Where the in-process NATS listens; port 0 picks a free one." env:"SKALD_NATS_ADDR" default:"127.0.0.1:4222"`
	PostgresAddr string `help:"Where the private Postgres listens; port 0 picks a free one." env:"SKALD_POSTGRES_ADDR" default:"127.0.0.1:0"`
	DatabaseURL  string `help:"Use this Postgres server instead of a private one; the databases skald and shop are made in it." env:"DATABASE_URL" placeholder:"URL"`
	NATSURL      string `name:"nats-url" help:"Use this NATS instead of one in process." env:"NATS_URL" placeholder:"URL"`
	program.NATSCredentials
	Data           string `help:"Keep data in this folder; default: nothing is kept." env:"SKALD_DATA" placeholder:"DIR"`
	ReadyFile      string `help:"Write the URLs of everything into this file, as JSON, once everything answers." env:"SKALD_READY_FILE" placeholder:"PATH"`
	NoParticipants bool   `help:"Leave the participants to you." env:"SKALD_NO_PARTICIPANTS"`
}

// endpoints is what --ready-file holds.
type endpoints struct {
	HTTP     string `json:"http"`
	NATS     string `json:"nats"`
	Postgres string `json:"postgres"`
	Shop     string `json:"shop"`
}

// Run runs everything until ctx is cancelled, and stops it in reverse order.
func (d *devCmd) Run(ctx context.Context, out program.Streams) (err error) {
	if err := d.validate(); err != nil {
		return err
	}
	defs, err := loadDefinitions(d.Definitions)
	if err != nil {
		return err
	}
	log := d.logger(out, "text")
	api, admin, err := d.listen(d.AdminAddr)
	if err != nil {
		return err
	}
	if err := d.checkPorts(); err != nil {
		return err
	}
	if err := d.makeFolder(); err != nil {
		return err
	}
	if d.ReadyFile != "" {
		// Whoever waits for it must not find an earlier run's.
		if err := os.Remove(d.ReadyFile); err != nil && !errors.Is(err, os.ErrNotExist) {
			return program.Usagef("--ready-file: %w", err)
		}
		defer func() { _ = os.Remove(d.ReadyFile) }()
	}
	var at endpoints
	at.HTTP = "http://" + api.Addr().String()

	nc, stopNATS, err := d.startNATS(log, &at)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, stopNATS()) }()
	server, stopPostgres, err := d.startPostgres(ctx, log)
	if err != nil {
		return interrupted(ctx, err)
	}
	defer func() { err = errors.Join(err, stopPostgres()) }()
	if err := d.prepare(ctx, server, &at); err != nil {
		return interrupted(ctx, err)
	}
	pool, err := openPool(ctx, at.Postgres, d.DatabaseConns)
	if err != nil {
		return err
	}
	defer pool.Close()
	registry := telemetry.NewRegistry()
	e := &engine{
		flags: d.engineFlags, definitions: defs, pool: pool, nc: nc, log: log, registry: registry,
		withRelay: true, dev: true, api: api, admin: admin,
	}
	e.ready = func() { d.announce(out, log, at) }
	js, err := jetstream.New(nc)
	if err != nil {
		return fmt.Errorf("use JetStream: %w", err)
	}
	// Now rather than by the engine in a moment: whoever looks for a stream
	// meanwhile would find none, say so, and wait.
	var names []string
	for _, def := range defs {
		names = append(names, def.Participants()...)
	}
	if err := e.topology(names).Ensure(ctx, js); err != nil {
		return interrupted(ctx, err)
	}
	return d.work(ctx, e, at, registry)
}

// interrupted is nil if the error comes of being told to stop.
func interrupted(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// work runs the engine and, if they are wanted, the participants.
func (d *devCmd) work(ctx context.Context, e *engine, at endpoints, registry *prometheus.Registry) error {
	if d.NoParticipants {
		return e.run(ctx)
	}
	return outlive(ctx, e.run, func(ctx context.Context) error {
		pool, err := openPool(ctx, at.Shop, 16)
		if err != nil {
			return err
		}
		defer pool.Close()
		nc, err := d.connectNATS(at.NATS, e.log)
		if err != nil {
			return err
		}
		defer nc.Close()
		return shop.Run(ctx, shop.Config{Pool: pool, NATS: nc, Prefix: d.Prefix, Log: e.log, Registerer: registry})
	})
}

// outlive runs both. The participants are told to stop once the engine has
// stopped: they answer what it has sent. If they fail, the engine stops too.
func outlive(ctx context.Context, engine, participants func(context.Context) error) error {
	last, stop := context.WithCancel(context.WithoutCancel(ctx))
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		defer stop()
		return engine(ctx)
	})
	g.Go(func() error { return participants(last) })
	return g.Wait()
}

func (d *devCmd) startNATS(log *slog.Logger, at *endpoints) (nc *nats.Conn, stop func() error, err error) {
	at.NATS = d.NATSURL
	halt := func() error { return nil }
	if d.NATSURL == "" {
		n, err := embedded.StartNATS(embedded.NATSConfig{Dir: d.dir("nats"), Addr: d.NATSAddr})
		if err != nil {
			return nil, nil, err
		}
		at.NATS, halt = n.URL(), n.Stop
	}
	nc, err = d.connectNATS(at.NATS, log)
	if err != nil {
		return nil, nil, errors.Join(err, halt())
	}
	return nc, func() error { nc.Close(); return halt() }, nil
}

// connectNATS shows credentials to a NATS that was given only: ours asks for
// none.
func (d *devCmd) connectNATS(url string, log *slog.Logger) (*nats.Conn, error) {
	var options []nats.Option
	if d.NATSURL != "" {
		var err error
		if options, err = d.Options(url); err != nil {
			return nil, err
		}
	}
	return connectNATS(url, log, options)
}

func (d *devCmd) startPostgres(ctx context.Context, log *slog.Logger) (urlOf func(database string) (string, error), stop func() error, err error) {
	if d.DatabaseURL != "" {
		if _, err := (program.DatabaseFlags{DatabaseURL: d.DatabaseURL}).URL(); err != nil {
			return nil, nil, err
		}
		return func(name string) (string, error) { return embedded.DatabaseURL(d.DatabaseURL, name) }, func() error { return nil }, nil
	}
	p, err := embedded.StartPostgres(ctx, embedded.PostgresConfig{
		Dir: d.dir("postgres"), Addr: d.PostgresAddr, Durable: d.Data != "", Log: log,
	})
	if errors.Is(err, embedded.ErrNoPostgres) {
		return nil, nil, program.UsageError{Err: err}
	}
	if err != nil {
		return nil, nil, err
	}
	return func(name string) (string, error) { return p.URL(name), nil }, p.Stop, nil
}

// prepare makes and migrates the databases.
func (d *devCmd) prepare(ctx context.Context, urlOf func(string) (string, error), at *endpoints) error {
	admin, err := urlOf("postgres")
	if err != nil {
		return program.Usagef("--database-url: %w", err)
	}
	for name, url := range map[string]*string{"skald": &at.Postgres, "shop": &at.Shop} {
		if *url, err = urlOf(name); err != nil {
			return program.Usagef("--database-url: %w", err)
		}
		if err := embedded.CreateDatabase(ctx, admin, name); err != nil {
			return err
		}
	}
	if err := migrations.Up(ctx, at.Postgres); err != nil {
		return err
	}
	pool, err := pgxpool.New(ctx, at.Shop)
	if err != nil {
		return fmt.Errorf("open database shop: %w", err)
	}
	defer pool.Close()
	return shop.Install(ctx, pool)
}

// dir is the folder that one server keeps its data in; empty if nothing is kept.
func (d *devCmd) dir(server string) string {
	if d.Data == "" {
		return ""
	}
	return filepath.Join(d.Data, server)
}

func addrError(flag string, err error) error {
	var taken *embedded.AddrInUseError
	if errors.As(err, &taken) {
		return program.Usagef("--%s: %s is taken; choose another address", flag, taken.Addr)
	}
	return program.Usagef("--%s: %w", flag, err)
}

// makeFolder makes the data folder, which the unprivileged user that runs
// Postgres for root must be able to enter.
func (d *devCmd) makeFolder() error {
	if d.Data == "" {
		return nil
	}
	if err := os.MkdirAll(d.Data, 0o755); err != nil { //nolint:gosec // see above; what is in it is closed
		return program.Usagef("--data: %w", err)
	}
	return nil
}

// checkPorts finds out early whether a port is taken.
func (d *devCmd) checkPorts() error {
	if d.NATSURL != "" {
		if err := program.CheckNATSURL(d.NATSURL); err != nil {
			return err
		}
	} else if err := embedded.CheckAddr(d.NATSAddr); err != nil {
		return addrError("nats-addr", err)
	}
	if d.DatabaseURL == "" {
		if err := embedded.CheckAddr(d.PostgresAddr); err != nil {
			return addrError("postgres-addr", err)
		}
	}
	return nil
}

// announce says where everything is, to people and to programs.
func (d *devCmd) announce(out program.Streams, log *slog.Logger, at endpoints) {
	if d.ReadyFile != "" {
		if err := writeReady(d.ReadyFile, at); err != nil {
			log.Error("the ready file cannot be written", "err", err)
		}
	}
	_, _ = fmt.Fprintf(out.Out, strings.TrimLeft(`
Skald is ready.

  API       %[1]s
  metrics   %[1]s/metrics
  profiles  %[1]s/debug/pprof/
  NATS      %[2]s
  Postgres  %[3]s
  shop      %[4]s

Try an order:

  curl -s %[1]s/v1/orders -H 'Content-Type: application/json' -H 'Prefer: wait=5' -d '{
    "customer_id": "c-42", "currency": "EUR", "payment_method": "pm_ok",
    "items": [{"sku": "book", "quantity": 2, "unit_price": "12.50"}],
    "ship_to": {"name": "Ada", "country": "DE"}}'

Or a transfer:

  curl -s %[1]s/v1/sagas -H 'Content-Type: application/json' -H 'Prefer: wait=5' -d '{
    "definition": "transfer", "input": {"from": "alice", "to": "carol", "amount": "12.50", "currency": "EUR"}}'

Ctrl-C stops everything%[5]s
`, "\n"), at.HTTP, at.NATS, at.Postgres, at.Shop, d.farewell())
}

// farewell ends the sentence that begins with "Ctrl-C stops everything".
func (d *devCmd) farewell() string {
	switch {
	case d.DatabaseURL != "":
		return " but the Postgres that DATABASE_URL names, and keeps what is in it."
	case d.Data != "":
		return " and keeps the data in " + d.Data + "."
	}
	return " and removes the data."
}

// writeReady writes all of the file or nothing: whoever waits for it may read
// it as soon as it is there.
func writeReady(name string, at endpoints) error {
	b, err := json.MarshalIndent(at, "", "  ")
	if err != nil {
		return err
	}
	tmp := name + ".tmp"
	if err := os.WriteFile(tmp, append(b, '\n'), 0o600); err != nil {
		return err
	}
	return os.Rename(tmp, name)
}

// Command order runs the participants of the order saga: inventory, payment
// and shipping, and bank of the transfer saga. See README.md.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/url"
	"os"
	"os/signal"
	"regexp"
	"strings"
	"syscall"
	"time"

	"github.com/alecthomas/kong"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/nats-io/nats.go"

	"github.com/skald-saga/skald/examples/order/shop"
)

type config struct {
	DatabaseURL string `help:"Postgres URL of the shop's own database." env:"DATABASE_URL"`
	Connections int32  `help:"Database connections at most." env:"SHOP_CONNECTIONS" default:"16"`
	NATSURL     string `name:"nats-url" help:"NATS server that Skald uses." env:"NATS_URL" default:"nats://127.0.0.1:4222"`
	Prefix      string `help:"Prefix of Skald's subjects." env:"SKALD_PREFIX" default:"skald"`
	Install     bool   `help:"Make the tables first, if they are not there." env:"SHOP_INSTALL"`
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	os.Exit(run(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

// run is the program: 0 after a signal, 1 if it could not go on, 2 if it was
// called wrongly.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	var cfg config
	pool, done, err := parse(&cfg, args, stdout)
	if done {
		return 0
	}
	if err != nil {
		_, _ = fmt.Fprintln(stderr, "order:", err)
		return 2
	}
	if err := serve(ctx, cfg, pool, slog.New(slog.NewJSONHandler(stderr, nil))); err != nil {
		_, _ = fmt.Fprintln(stderr, "order:", err)
		if errors.Is(err, errNoTables) {
			return 2
		}
		return 1
	}
	return 0
}

var prefix = regexp.MustCompile(`^[a-zA-Z0-9_-]+(\.[a-zA-Z0-9_-]+)*$`)

// parse reads the configuration; done says that help was all that was wanted.
func parse(cfg *config, args []string, stdout io.Writer) (pool *pgxpool.Config, done bool, err error) {
	parser, err := kong.New(cfg, kong.Name("order"), kong.Writers(stdout, stdout), kong.Exit(func(int) { done = true }),
		kong.Description("Runs the participants of the order saga, inventory, payment and shipping, and of the transfer saga, bank."))
	if err != nil {
		return nil, false, err
	}
	if _, err = parser.Parse(args); err != nil || done {
		return nil, done, err
	}
	switch {
	case cfg.DatabaseURL == "": // also if the variable is set and empty, which would mean pgx's own defaults
		return nil, false, errors.New("--database-url: must be set, or DATABASE_URL")
	case cfg.Connections < 1:
		return nil, false, errors.New("--connections: must be at least 1")
	case !prefix.MatchString(cfg.Prefix):
		return nil, false, errors.New("--prefix: must be one or more words of letters, digits, - and _ with dots between")
	}
	for server := range strings.SplitSeq(cfg.NATSURL, ",") {
		if u, err := url.Parse(strings.TrimSpace(server)); err != nil || u.Host == "" {
			return nil, false, errors.New("--nats-url: not a URL like nats://host:4222")
		}
	}
	if pool, err = pgxpool.ParseConfig(cfg.DatabaseURL); err != nil {
		return nil, false, errors.New("--database-url: not a Postgres URL") // the cause would quote it, password and all
	}
	pool.MaxConns = cfg.Connections
	return pool, false, nil
}

// serve runs the participants until ctx is cancelled. NATS and Postgres need
// not be there yet.
func serve(ctx context.Context, cfg config, poolConfig *pgxpool.Config, log *slog.Logger) error {
	pool, err := pgxpool.NewWithConfig(ctx, poolConfig)
	if err != nil {
		return fmt.Errorf("open database: %w", err)
	}
	defer pool.Close()
	nc, err := nats.Connect(cfg.NATSURL, nats.Name("order participants"), nats.RetryOnFailedConnect(true), nats.MaxReconnects(-1),
		nats.ReconnectWait(200*time.Millisecond),
		nats.ReconnectBufSize(-1), // a reply that could not be sent is not sent later: its command comes again
		nats.DisconnectErrHandler(func(_ *nats.Conn, err error) {
			if err != nil {
				log.Warn("disconnected from NATS", "err", err)
			}
		}),
		nats.ReconnectHandler(func(*nats.Conn) { log.Info("connected to NATS again") }))
	if err != nil {
		return fmt.Errorf("connect to NATS: %w", err)
	}
	defer nc.Close()
	if err := prepare(ctx, pool, cfg.Install, log); err != nil || ctx.Err() != nil {
		return err
	}
	log.Info("participants are running")
	err = shop.Run(ctx, shop.Config{Pool: pool, NATS: nc, Prefix: cfg.Prefix, Log: log})
	log.Info("participants have stopped")
	return err
}

// errNoTables is the caller's mistake: no waiting mends it.
var errNoTables = errors.New("the shop's tables are not there; run once with --install")

// prepare waits for the database, and makes the tables or checks that they are
// there: without them every order would be tried for a while and then undone.
func prepare(ctx context.Context, pool *pgxpool.Pool, install bool, log *slog.Logger) error {
	if install {
		if !await(ctx, log, func() error { return pool.Ping(ctx) }) {
			return nil
		}
		return shop.Install(ctx, pool) // it does not wait for rights
	}
	installed := false
	known := await(ctx, log, func() (err error) {
		installed, err = shop.Installed(ctx, pool)
		return err
	})
	if known && !installed {
		return errNoTables
	}
	return nil
}

// await asks the database until it answers; false: ctx ended first.
func await(ctx context.Context, log *slog.Logger, ask func() error) bool {
	for waiting := false; ctx.Err() == nil; waiting = true {
		err := ask()
		if err == nil {
			return true
		}
		if !waiting && ctx.Err() == nil {
			log.Warn("waiting for the database", "err", err)
		}
		select {
		case <-ctx.Done():
		case <-time.After(500 * time.Millisecond):
		}
	}
	return false
}

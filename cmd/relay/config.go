package main

import (
	"errors"
	"log/slog"
	"net"
	"net/url"
	"os"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
)

// runCmd is the configuration of `relay run`.
type runCmd struct {
	DatabaseURL     string        `help:"The database whose outbox is published, as postgres://user:password@host:port/name." env:"DATABASE_URL" placeholder:"URL"`
	DatabaseURLFile string        `help:"A file that holds the database URL." env:"DATABASE_URL_FILE" placeholder:"PATH"`
	NATSURL         string        `name:"nats-url" help:"NATS servers, joined by commas; user and password may be part of the URL." env:"NATS_URL" default:"nats://127.0.0.1:4222" placeholder:"URL"`
	Prefix          string        `help:"First token of the subject on which writers may wake the relay." env:"SKALD_PREFIX" default:"skald"`
	AdminAddr       string        `help:"Where health, metrics and pprof are served; empty: nowhere." env:"SKALD_RELAY_ADMIN_ADDR" default:"127.0.0.1:9091" placeholder:"HOST:PORT"`
	DrainTimeout    time.Duration `help:"How long the page at hand may take once the relay is told to stop." env:"SKALD_DRAIN_TIMEOUT" default:"20s"`
	LogFormat       string        `help:"json or text." env:"SKALD_LOG_FORMAT" enum:"json,text" default:"json"`
	LogLevel        slog.Level    `help:"debug, info, warn or error." env:"SKALD_LOG_LEVEL" default:"info"`
}

// connections are few: one is at work, one asks how things are. The rest are
// for the moment in which both have just been lost.
const connections = 4

// database checks the database URL. It opens no connection.
//
// Statements are prepared once per connection. A pooler in front must support
// that (PgBouncer does from 1.21); otherwise the URL says
// default_query_exec_mode=exec.
func (c *runCmd) database() (*pgxpool.Config, error) {
	u := c.DatabaseURL
	if c.DatabaseURLFile != "" {
		if u != "" {
			return nil, usagef("--database-url and --database-url-file cannot both be given")
		}
		b, err := os.ReadFile(c.DatabaseURLFile)
		if err != nil {
			return nil, usagef("--database-url-file: %w", err)
		}
		u = strings.TrimSpace(string(b))
	}
	switch {
	case u == "":
		return nil, usagef("--database-url (DATABASE_URL) must be set")
	case !strings.HasPrefix(u, "postgres://") && !strings.HasPrefix(u, "postgresql://"):
		return nil, usagef("--database-url: must begin with postgres://")
	}
	cfg, err := pgxpool.ParseConfig(u)
	if err != nil {
		return nil, usagef("--database-url: not a database URL") // the reason may quote the password
	}
	cfg.MaxConns, cfg.MinConns = connections, 0
	cfg.ConnConfig.ConnectTimeout = 5 * time.Second
	if cfg.ConnConfig.RuntimeParams["application_name"] == "" {
		cfg.ConnConfig.RuntimeParams["application_name"] = "skald-relay"
	}
	return cfg, nil
}

func (c *runCmd) validate() error {
	if c.DrainTimeout < 0 {
		return usagef("--drain-timeout: must not be negative")
	}
	for part := range strings.SplitSeq(c.NATSURL, ",") {
		part = strings.TrimSpace(part)
		if !strings.Contains(part, "://") {
			part = "nats://" + part
		}
		u, err := url.Parse(part)
		if err != nil || u.Hostname() == "" || !slices.Contains([]string{"nats", "tls", "ws", "wss"}, u.Scheme) {
			return usagef("--nats-url: want nats://host:port, or several joined by commas") // the reason may quote the password
		}
	}
	for token := range strings.SplitSeq(c.Prefix, ".") {
		if token == "" || strings.Trim(token, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-") != "" {
			return usagef("--prefix: want letters, digits, - and _, in parts joined by dots")
		}
	}
	return nil
}

// listen opens the admin port; nil if there is to be none.
func (c *runCmd) listen() (net.Listener, error) {
	if c.AdminAddr == "" {
		return nil, nil
	}
	ln, err := net.Listen("tcp", c.AdminAddr)
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return nil, usagef("--admin-addr: %s is taken; choose another address", c.AdminAddr)
	case err != nil:
		return nil, usagef("--admin-addr: %w", err)
	}
	return ln, nil
}

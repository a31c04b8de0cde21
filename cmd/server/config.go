package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/skald-saga/skald/definitions"
	"github.com/skald-saga/skald/internal/saga"
	"github.com/skald-saga/skald/internal/telemetry"
)

// databaseFlags say which database.
type databaseFlags struct {
	DatabaseURL     string `help:"The database, as postgres://user:password@host:port/name." env:"DATABASE_URL" placeholder:"URL"`
	DatabaseURLFile string `help:"A file that holds the database URL." env:"DATABASE_URL_FILE" placeholder:"PATH"`
}

func (d databaseFlags) url() (string, error) {
	u := d.DatabaseURL
	if d.DatabaseURLFile != "" {
		if u != "" {
			return "", usagef("--database-url and --database-url-file cannot both be given")
		}
		b, err := os.ReadFile(d.DatabaseURLFile)
		if err != nil {
			return "", usagef("--database-url-file: %w", err)
		}
		u = strings.TrimSpace(string(b))
	}
	switch {
	case u == "":
		return "", usagef("--database-url (DATABASE_URL) must be set")
	case !strings.HasPrefix(u, "postgres://") && !strings.HasPrefix(u, "postgresql://"):
		return "", usagef("--database-url: must begin with postgres://")
	}
	if _, err := pgxpool.ParseConfig(u); err != nil {
		return "", usagef("--database-url: not a database URL") // the reason may quote the password
	}
	return u, nil
}

// use opens the database for one command.
func (d databaseFlags) use(ctx context.Context, do func(url string, pool *pgxpool.Pool) error) error {
	u, err := d.url()
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

// openPool opens no connection yet. Statements are prepared once per
// connection; a pooler in front must support that (PgBouncer does from 1.21).
func openPool(ctx context.Context, url string, connections int32) (*pgxpool.Pool, error) {
	cfg, err := pgxpool.ParseConfig(url)
	if err != nil {
		return nil, usagef("not a database URL")
	}
	cfg.MaxConns = connections
	cfg.ConnConfig.ConnectTimeout = 5 * time.Second
	if cfg.ConnConfig.RuntimeParams["application_name"] == "" {
		cfg.ConnConfig.RuntimeParams["application_name"] = "skald"
	}
	pool, err := pgxpool.NewWithConfig(ctx, cfg)
	if err != nil {
		return nil, fmt.Errorf("open database: %w", err)
	}
	return pool, nil
}

// engineFlags are common to serve and dev.
type engineFlags struct {
	HTTPAddr          string        `help:"Where the API listens." env:"SKALD_HTTP_ADDR" default:"127.0.0.1:8080" placeholder:"HOST:PORT"`
	AdminAddr         string        `help:"Where health, metrics and pprof are served; empty: nowhere." env:"SKALD_ADMIN_ADDR" placeholder:"HOST:PORT" default:"127.0.0.1:9090"`
	InsecureNoAuth    bool          `help:"Listen beyond this machine although the API asks nobody who they are." env:"SKALD_INSECURE_NO_AUTH"`
	Definitions       string        `help:"A folder with saga definitions (*.yaml, *.yml, *.json); default: the built-in order saga." env:"SKALD_DEFINITIONS" placeholder:"DIR"`
	Prefix            string        `help:"First token of all NATS subjects." env:"SKALD_PREFIX" default:"skald"`
	DatabaseConns     int32         `help:"Most database connections." env:"SKALD_DATABASE_CONNS" default:"16"`
	DrainTimeout      time.Duration `help:"How long open requests may take once the server is told to stop." env:"SKALD_DRAIN_TIMEOUT" default:"10s"`
	LogFormat         string        `help:"json, text, or auto: text in dev, else json." env:"SKALD_LOG_FORMAT" enum:"auto,json,text" default:"auto"`
	LogLevel          slog.Level    `help:"debug, info, warn or error." env:"SKALD_LOG_LEVEL" default:"info"`
	JetStreamReplicas int           `help:"Replicas of the streams that this server creates." env:"SKALD_JETSTREAM_REPLICAS" default:"1" name:"jetstream-replicas"`
}

func (f engineFlags) validate() error {
	if f.DatabaseConns < 5 {
		return usagef("--database-conns: must be at least 5")
	}
	if f.DrainTimeout < 0 {
		return usagef("--drain-timeout: must not be negative")
	}
	if f.JetStreamReplicas < 1 || f.JetStreamReplicas > 5 {
		return usagef("--jetstream-replicas: must be 1 to 5")
	}
	if err := validPrefix(f.Prefix); err != nil {
		return err
	}
	if !f.InsecureNoAuth && !loopback(f.HTTPAddr) {
		return usagef("--http-addr %s can be reached from elsewhere, and the API asks nobody who they are: choose a loopback address, or say --insecure-no-auth", f.HTTPAddr)
	}
	return nil
}

// validPrefix accepts what is safe as the beginning of a NATS subject.
func validPrefix(p string) error {
	for token := range strings.SplitSeq(p, ".") {
		if token == "" || strings.Trim(token, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-") != "" {
			return usagef("--prefix: want letters, digits, - and _, in parts joined by dots")
		}
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

// listen opens an address that the flag gave.
func listen(flag, addr string) (net.Listener, error) {
	ln, err := net.Listen("tcp", addr)
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return nil, usagef("--%s: %s is taken; choose another address", flag, addr)
	case err != nil:
		return nil, usagef("--%s: %w", flag, err)
	}
	return ln, nil
}

// loadDefinitions reads the folder dir, or what is built in.
func loadDefinitions(dir string) ([]*saga.Definition, error) {
	var files fs.FS = definitions.Files
	if dir != "" {
		files = os.DirFS(dir)
	}
	entries, err := fs.ReadDir(files, ".")
	if err != nil {
		return nil, usagef("--definitions: %w", err)
	}
	var defs []*saga.Definition
	names := map[string]string{}
	for _, e := range entries {
		if ext := path.Ext(e.Name()); e.IsDir() || (ext != ".yaml" && ext != ".yml" && ext != ".json") {
			continue
		}
		b, err := fs.ReadFile(files, e.Name())
		if err != nil {
			return nil, usagef("--definitions: %w", err)
		}
		def, err := saga.Parse(b)
		if err != nil {
			return nil, usagef("--definitions: %s: %s", e.Name(), strings.ReplaceAll(err.Error(), "\n", "; "))
		}
		if other, taken := names[def.Name]; taken {
			return nil, usagef("--definitions: %s and %s both define %q", other, e.Name(), def.Name)
		}
		names[def.Name] = e.Name()
		defs = append(defs, def)
	}
	if len(defs) == 0 {
		return nil, usagef("--definitions: no *.yaml, *.yml or *.json in %s", dir)
	}
	return defs, nil
}

// participants are those that the definitions name.
func participants(defs []*saga.Definition) []string {
	var names []string
	seen := map[string]bool{}
	for _, d := range defs {
		for _, s := range d.Steps {
			if !seen[s.Participant] {
				seen[s.Participant] = true
				names = append(names, s.Participant)
			}
		}
	}
	return names
}

// logger writes to standard error.
func (f engineFlags) logger(s streams, format string) *slog.Logger {
	if f.LogFormat != "auto" {
		format = f.LogFormat
	}
	return telemetry.NewLogger(s.err, format, f.LogLevel)
}

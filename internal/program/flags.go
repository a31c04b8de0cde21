package program

import (
	"errors"
	"net"
	"os"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
)

// DatabaseFlags say which database.
type DatabaseFlags struct {
	DatabaseURL     string `help:"The database, as postgres://user:password@host:port/name." env:"DATABASE_URL" placeholder:"URL"`
	DatabaseURLFile string `help:"A file that holds the database URL." env:"DATABASE_URL_FILE" placeholder:"PATH"`
}

// URL returns the URL that was given, checked.
func (d DatabaseFlags) URL() (string, error) {
	u := d.DatabaseURL
	if d.DatabaseURLFile != "" {
		if u != "" {
			return "", Usagef("--database-url and --database-url-file cannot both be given")
		}
		b, err := os.ReadFile(d.DatabaseURLFile)
		if err != nil {
			return "", Usagef("--database-url-file: %w", err)
		}
		u = strings.TrimSpace(string(b))
	}
	if u == "" {
		return "", Usagef("--database-url (DATABASE_URL) must be set")
	}
	_, err := PoolConfig(u, "skald", 1)
	return u, err
}

// PoolConfig is the configuration of a connection pool. Statements are
// prepared once per connection; a pooler in front must support that (PgBouncer
// does from 1.21), or the URL must say default_query_exec_mode=exec.
func PoolConfig(databaseURL, application string, connections int32) (*pgxpool.Config, error) {
	if !strings.HasPrefix(databaseURL, "postgres://") && !strings.HasPrefix(databaseURL, "postgresql://") {
		return nil, Usagef("--database-url: must begin with postgres://")
	}
	cfg, err := pgxpool.ParseConfig(databaseURL)
	if err != nil {
		return nil, Usagef("--database-url: not a database URL") // the reason may quote the password
	}
	cfg.MaxConns, cfg.MinConns = connections, 0
	cfg.ConnConfig.ConnectTimeout = 5 * time.Second
	if cfg.ConnConfig.RuntimeParams["application_name"] == "" {
		cfg.ConnConfig.RuntimeParams["application_name"] = application
	}
	return cfg, nil
}

// PublishFlag says how rows are published.
type PublishFlag struct {
	Publish string `help:"How messages go to JetStream: in atomic batches, async (one by one, many under way), or as pays (auto)." env:"SKALD_PUBLISH" enum:"auto,batch,async" default:"auto"`
}

// PrefixFlag keeps installations on one NATS apart.
type PrefixFlag struct {
	Prefix string `help:"Beginning of all NATS subjects: it keeps installations on one NATS apart." env:"SKALD_PREFIX" default:"skald"`
}

// CheckPrefix accepts what is safe as the beginning of a NATS subject.
func CheckPrefix(prefix string) error {
	for token := range strings.SplitSeq(prefix, ".") {
		if token == "" || strings.Trim(token, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-") != "" {
			return Usagef("--prefix: want letters, digits, - and _, in parts joined by dots")
		}
	}
	return nil
}

// Listen opens the address that a flag gave.
func Listen(flag, addr string) (net.Listener, error) {
	ln, err := net.Listen("tcp", addr)
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return nil, Usagef("--%s: %s is taken; choose another address", flag, addr)
	case err != nil:
		return nil, Usagef("--%s: %w", flag, err)
	}
	return ln, nil
}

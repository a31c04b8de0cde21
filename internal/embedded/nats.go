package embedded

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/nats-io/nats-server/v2/server"
)

// NATSConfig describes an in-process JetStream server.
type NATSConfig struct {
	Dir  string // where to keep streams; empty: in a temporary folder that Stop removes
	Addr string // host:port to listen on; port 0 picks a free one; default 127.0.0.1:0

	SyncAlways bool   // acknowledge only what is on disk
	Config     string // more, in the server's own format: who may connect, TLS
}

// NATS is a running JetStream server.
type NATS struct {
	cfg       NATSConfig
	server    *server.Server
	host      string
	port      int
	dir       string
	temporary bool
	name      string
	cluster   server.ClusterOpts // empty: the server is alone
	routes    []*url.URL
}

// StartNATS starts a server and returns when it takes connections.
func StartNATS(cfg NATSConfig) (*NATS, error) {
	n, err := newNATS(cfg)
	if err != nil {
		return nil, err
	}
	if err := n.Start(); err != nil {
		return nil, errors.Join(err, n.discard())
	}
	return n, nil
}

// newNATS returns a server with an address and a folder that is not started.
func newNATS(cfg NATSConfig) (*NATS, error) {
	if cfg.Addr == "" {
		cfg.Addr = "127.0.0.1:0"
	}
	n := &NATS{cfg: cfg, dir: cfg.Dir, name: "skald"}
	var err error
	if n.host, n.port, err = listenAddr(cfg.Addr); err != nil {
		return nil, err
	}
	if n.dir == "" {
		SweepStale()
		if n.dir, err = makeTemp(); err != nil {
			return nil, err
		}
		n.temporary = true
	}
	return n, nil
}

// Start starts a server that was stopped, on the same port and streams.
func (n *NATS) Start() error {
	opts, err := n.options()
	if err != nil {
		return fmt.Errorf("start NATS: %w", err)
	}
	s, err := server.NewServer(opts)
	if err != nil {
		return fmt.Errorf("start NATS: %w", err)
	}
	go s.Start()
	if !s.ReadyForConnections(20 * time.Second) {
		s.Shutdown()
		return errors.New("start NATS: it does not take connections")
	}
	n.server = s
	return nil
}

func (n *NATS) options() (*server.Options, error) {
	opts := &server.Options{MaxPayload: 1 << 20}
	if n.cfg.Config != "" {
		file := filepath.Join(n.dir, "nats.conf")
		if err := os.WriteFile(file, []byte(n.cfg.Config), 0o600); err != nil {
			return nil, err
		}
		if err := opts.ProcessConfigFile(file); err != nil {
			return nil, err
		}
	}
	opts.ServerName, opts.Host, opts.Port, opts.Cluster, opts.Routes = n.name, n.host, n.port, n.cluster, n.routes
	opts.JetStream, opts.StoreDir, opts.SyncAlways = true, n.dir, n.cfg.SyncAlways
	opts.NoSigs, opts.NoLog = true, true
	return opts, nil
}

// Reconfigure makes a running server heed another [NATSConfig.Config].
func (n *NATS) Reconfigure(config string) error {
	n.cfg.Config = config
	opts, err := n.options()
	if err != nil {
		return fmt.Errorf("reconfigure NATS: %w", err)
	}
	if err := n.server.ReloadOptions(opts); err != nil {
		return fmt.Errorf("reconfigure NATS: %w", err)
	}
	return nil
}

// URL is how to reach the server.
func (n *NATS) URL() string {
	return "nats://" + net.JoinHostPort(n.host, strconv.Itoa(n.port))
}

// Sync says when the server puts on disk what it has acknowledged.
func (n *NATS) Sync() string {
	cfg := n.server.JetStreamConfig()
	if cfg.SyncAlways {
		return "always"
	}
	return "every " + cfg.SyncInterval.String()
}

// Halt stops the server and keeps its streams; Start brings it back.
func (n *NATS) Halt() {
	if n.server == nil { // never started
		return
	}
	n.server.Shutdown()
	n.server.WaitForShutdown()
}

// Wipe deletes all that a halted server held: a disaster, for tests.
func (n *NATS) Wipe() error {
	return os.RemoveAll(filepath.Join(n.dir, "jetstream"))
}

// Stop stops the server and removes a temporary folder.
func (n *NATS) Stop() error {
	n.Halt()
	return n.discard()
}

func (n *NATS) discard() error {
	if !n.temporary {
		return nil
	}
	return os.RemoveAll(n.dir)
}

// CheckAddr returns an [*AddrInUseError] if the address is taken.
func CheckAddr(addr string) error {
	_, _, err := listenAddr(addr)
	return err
}

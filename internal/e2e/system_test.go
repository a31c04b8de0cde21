// Package e2e holds Skald to its promises from outside: real programs, real
// Postgres, real JetStream, and everything that may die, dying.
package e2e

import (
	"bytes"
	"context"
	"net"
	"net/http"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/nats-io/nats.go"

	"github.com/skald-saga/skald/examples/order/shop"
	"github.com/skald-saga/skald/internal/embedded"
	"github.com/skald-saga/skald/internal/testkit"
	"github.com/skald-saga/skald/migrations"
)

func TestMain(m *testing.M) { testkit.Main(m) }

// system is Skald as it runs in production: Postgres, NATS, and each program a
// process of its own.
type system struct {
	t        *testing.T
	postgres *embedded.Postgres
	nats     *embedded.NATS
	skaldURL string
	shopURL  string
	api      string // base URL

	server, relay, participants *process
}

// start starts everything. The participants' subjects may have a prefix of
// their own, if the test carries the messages to and fro.
func start(t *testing.T, participantPrefix string) *system {
	t.Helper()
	s := &system{t: t, postgres: testkit.Cluster(t), nats: testkit.NATS(t)}
	ctx := context.Background()
	for _, name := range []string{"skald", "shop"} {
		if err := embedded.CreateDatabase(ctx, s.postgres.URL("postgres"), name); err != nil {
			t.Fatal(err)
		}
	}
	s.skaldURL, s.shopURL = s.postgres.URL("skald"), s.postgres.URL("shop")
	if err := migrations.Up(ctx, s.skaldURL); err != nil {
		t.Fatal(err)
	}
	if err := shop.Install(ctx, testkit.Pool(t, s.shopURL)); err != nil {
		t.Fatal(err)
	}
	addr := freeAddr(t)
	s.api = "http://" + addr
	s.server = s.program("cmd/server", "serve", "--http-addr", addr, "--admin-addr", "", "--database-url", s.skaldURL, "--nats-url", s.nats.URL())
	s.relay = s.program("cmd/relay", "run", "--admin-addr", freeAddr(t), "--database-url", s.skaldURL, "--nats-url", s.nats.URL())
	s.participants = s.program("examples/order", "--database-url", s.shopURL, "--nats-url", s.nats.URL(), "--prefix", participantPrefix)
	for _, p := range []*process{s.server, s.relay, s.participants} {
		p.start()
	}
	testkit.Eventually(t, "the API answers", 30*time.Second, func() (bool, string) {
		resp, err := http.Get(s.api + "/readyz")
		if err != nil {
			return false, err.Error()
		}
		_ = resp.Body.Close()
		return resp.StatusCode == http.StatusOK, resp.Status
	})
	return s
}

func freeAddr(t *testing.T) string {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = ln.Close() }()
	return ln.Addr().String()
}

// process is a program that can be killed and started again.
type process struct {
	t    *testing.T
	path string
	args []string

	mu    sync.Mutex
	cmd   *exec.Cmd
	log   bytes.Buffer
	kills int
}

func (s *system) program(pkg string, args ...string) *process {
	p := &process{t: s.t, path: testkit.Build(s.t, pkg), args: args}
	s.t.Cleanup(func() {
		p.stop()
		if s.t.Failed() {
			s.t.Logf("%s, killed %d times, said at the end:\n%s", pkg, p.kills, tail(p.log.Bytes(), 4000))
		}
	})
	return p
}

func tail(b []byte, n int) []byte { return b[max(0, len(b)-n):] }

func (p *process) start() {
	p.t.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.cmd = exec.Command(p.path, p.args...)
	p.cmd.Stdout, p.cmd.Stderr = &p.log, &p.log
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	p.cmd.Env = append(os.Environ(), "SKALD_LOG_LEVEL=warn")
	if err := p.cmd.Start(); err != nil {
		p.t.Error(err)
		p.cmd = nil
	}
}

// kill is kill -9.
func (p *process) kill() {
	p.end(syscall.SIGKILL)
	p.kills++
}

// stop asks the program to end, and checks that it ended well.
func (p *process) stop() {
	if err := p.end(syscall.SIGTERM); err != nil {
		p.t.Errorf("%s %v ended with %v", p.path, p.args[:1], err)
	}
}

func (p *process) end(sig syscall.Signal) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cmd == nil {
		return nil
	}
	_ = p.cmd.Process.Signal(sig)
	err := p.cmd.Wait()
	p.cmd = nil
	return err
}

// restart kills the program and starts it again at once.
func (p *process) restart() {
	p.kill()
	p.start()
}

func (s *system) pool(url string) *pgxpool.Pool { return testkit.Pool(s.t, url) }

func (s *system) connect() *nats.Conn {
	nc, err := nats.Connect(s.nats.URL(), nats.MaxReconnects(-1))
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(nc.Close)
	return nc
}

// query returns one number.
func (s *system) query(pool *pgxpool.Pool, sql string, args ...any) string {
	s.t.Helper()
	var v string
	if err := pool.QueryRow(context.Background(), sql, args...).Scan(&v); err != nil {
		s.t.Fatalf("%s: %v", sql, err)
	}
	return v
}

// Package testkit gives tests real servers: a fresh database each on a Postgres
// cluster that the test process starts, JetStream servers, and built programs.
// Only tests import it.
package testkit

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/skald-saga/skald/internal/embedded"
	"github.com/skald-saga/skald/migrations"
)

// Main runs a package's tests and stops what they shared. Use it as
//
//	func TestMain(m *testing.M) { testkit.Main(m) }
func Main(m *testing.M) {
	if bin := os.Getenv("SKALD_TEST_PG_BIN"); bin != "" {
		_ = os.Setenv("SKALD_PG_BIN", bin)
	}
	code := m.Run()
	shared.mu.Lock()
	defer shared.mu.Unlock()
	if shared.cluster != nil {
		if err := shared.cluster.Stop(); err != nil {
			fmt.Fprintln(os.Stderr, "stop the test cluster:", err)
			code = max(code, 1)
		}
	}
	if shared.builds != "" {
		_ = os.RemoveAll(shared.builds)
	}
	os.Exit(code)
}

// shared is what the tests of one process have in common.
var shared struct {
	mu       sync.Mutex
	cluster  *embedded.Postgres
	template string
	builds   string
	names    atomic.Int64
}

// server returns the URL of a server to make databases on: DATABASE_URL, or a
// cluster of this process.
func server(t testing.TB) string {
	if u := os.Getenv("DATABASE_URL"); u != "" {
		return u
	}
	if shared.cluster == nil {
		p, err := embedded.StartPostgres(context.Background(), embedded.PostgresConfig{Params: map[string]string{"shared_buffers": "128MB"}})
		if err != nil {
			t.Fatal(err)
		}
		shared.cluster = p
	}
	return shared.cluster.URL("postgres")
}

// DatabaseURL returns the URL of a fresh, fully migrated database that no other
// test sees. It is dropped when the test ends, unless the test failed on a
// server that was given by DATABASE_URL.
func DatabaseURL(t testing.TB) string {
	t.Helper()
	shared.mu.Lock()
	defer shared.mu.Unlock()
	admin := server(t)
	if shared.template == "" {
		// One template per process and schema: tests of other packages may run
		// on the same server at the same time.
		name := fmt.Sprintf("skald_template_%s_%d", schemaHash(t), os.Getpid())
		createDatabase(t, admin, name, "")
		if err := migrations.Up(context.Background(), withDatabase(t, admin, name)); err != nil {
			t.Fatal(err)
		}
		shared.template = name
	}
	return fresh(t, admin, shared.template)
}

// EmptyDatabaseURL returns the URL of a fresh database without any table.
func EmptyDatabaseURL(t testing.TB) string {
	t.Helper()
	shared.mu.Lock()
	defer shared.mu.Unlock()
	return fresh(t, server(t), "")
}

// Postgres returns a pool on a database as DatabaseURL makes it.
func Postgres(t testing.TB) *pgxpool.Pool {
	t.Helper()
	return Pool(t, DatabaseURL(t))
}

// Pool opens a pool that is closed when the test ends.
func Pool(t testing.TB, url string) *pgxpool.Pool {
	t.Helper()
	pool, err := pgxpool.New(context.Background(), url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	return pool
}

func fresh(t testing.TB, admin, template string) string {
	name := "skald_test_" + strconv.Itoa(os.Getpid()) + "_" + strconv.FormatInt(shared.names.Add(1), 10)
	createDatabase(t, admin, name, template)
	url := withDatabase(t, admin, name)
	t.Cleanup(func() {
		if t.Failed() && os.Getenv("DATABASE_URL") != "" {
			t.Logf("the database is kept: %s", url)
			return
		}
		execute(t, admin, `DROP DATABASE IF EXISTS `+name+` WITH (FORCE)`)
	})
	return url
}

func createDatabase(t testing.TB, admin, name, template string) {
	sql := `CREATE DATABASE ` + name
	if template != "" {
		sql += ` TEMPLATE ` + template
	}
	execute(t, admin, sql)
}

func execute(t testing.TB, url, sql string) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close(ctx) }()
	if _, err := conn.Exec(ctx, sql); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
}

func withDatabase(t testing.TB, server, name string) string {
	url, err := embedded.DatabaseURL(server, name)
	if err != nil {
		t.Fatal(err)
	}
	return url
}

func schemaHash(t testing.TB) string {
	h := sha256.New()
	err := fs.WalkDir(migrations.Files, ".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := fs.ReadFile(migrations.Files, path)
		h.Write(b)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return hex.EncodeToString(h.Sum(nil)[:6])
}

// Cluster starts a durable cluster of the test's own, which it may kill.
func Cluster(t testing.TB) *embedded.Postgres {
	t.Helper()
	p, err := embedded.StartPostgres(context.Background(), embedded.PostgresConfig{Durable: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Stop(); err != nil {
			t.Error(err)
		}
	})
	return p
}

// NATS starts a JetStream server of the test's own, which it may halt and wipe.
func NATS(t testing.TB) *embedded.NATS {
	t.Helper()
	return NATSWith(t, embedded.NATSConfig{})
}

// NATSWith is [NATS] with another configuration.
func NATSWith(t testing.TB, cfg embedded.NATSConfig) *embedded.NATS {
	t.Helper()
	n, err := embedded.StartNATS(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := n.Stop(); err != nil {
			t.Error(err)
		}
	})
	return n
}

// NATSCluster starts three servers of the test's own that acknowledge only what
// is on disk.
func NATSCluster(t testing.TB) *embedded.NATSCluster {
	t.Helper()
	c, err := embedded.StartNATSCluster(3, embedded.NATSConfig{SyncAlways: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Stop(); err != nil {
			t.Error(err)
		}
	})
	return c
}

// Eventually waits until ok, and fails the test when limit has passed. detail
// says how things stand.
func Eventually(t testing.TB, what string, limit time.Duration, check func() (ok bool, detail string)) {
	t.Helper()
	deadline := time.Now().Add(limit)
	for {
		ok, detail := check()
		if ok {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("not within %s: %s: %s", limit, what, detail)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// Build builds a program of this module, once per process, with the race
// detector if the test has it, and returns its path.
func Build(t testing.TB, pkg string) string {
	t.Helper()
	shared.mu.Lock()
	defer shared.mu.Unlock()
	if shared.builds == "" {
		dir, err := os.MkdirTemp("", "skald-build-")
		if err != nil {
			t.Fatal(err)
		}
		shared.builds = dir
	}
	out := filepath.Join(shared.builds, strings.ReplaceAll(pkg, "/", "_"))
	if _, err := os.Stat(out); err == nil {
		return out
	}
	args := []string{"build", "-o", out}
	if Race {
		args = append(args, "-race")
	}
	cmd := exec.Command("go", append(args, "./"+pkg)...)
	cmd.Dir = Root(t)
	if b, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build %s: %v\n%s", pkg, err, b)
	}
	return out
}

// Root is the top folder of the module.
func Root(t testing.TB) string {
	_, file, _, ok := runtime.Caller(0)
	if !ok {
		t.Fatal("where are we?")
	}
	return filepath.Dir(filepath.Dir(filepath.Dir(file)))
}

// Log writes to the test's log, and nothing once the test has ended: a
// connection that is closed may still have something to say.
func Log(t testing.TB) *slog.Logger {
	l := &testLog{out: t.Output()}
	t.Cleanup(func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.out = io.Discard
	})
	return slog.New(slog.NewTextHandler(l, &slog.HandlerOptions{Level: slog.LevelWarn}))
}

type testLog struct {
	mu  sync.Mutex
	out io.Writer
}

func (l *testLog) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.out.Write(b)
}

package embedded_test

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"go.uber.org/goleak"

	"github.com/skald-saga/skald/internal/embedded"
)

// ownerEnv makes this test program the owner of a cluster that waits to be
// killed.
const ownerEnv = "SKALD_TEST_CLUSTER_OWNER"

func TestMain(m *testing.M) {
	if dir, ok := os.LookupEnv(ownerEnv); ok {
		own(dir)
		return
	}
	goleak.VerifyTestMain(m)
}

// owned is what the owner of a cluster says about it.
type owned struct{ URL, Data string }

// own starts a cluster, says where it is, and never stops it.
func own(dir string) {
	p, err := embedded.StartPostgres(context.Background(), embedded.PostgresConfig{Dir: dir, Durable: dir != ""})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return
	}
	url := p.URL("postgres")
	conn, err := pgx.Connect(context.Background(), url)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return
	}
	o := owned{URL: url}
	if err := conn.QueryRow(context.Background(), `SELECT current_setting('data_directory')`).Scan(&o.Data); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return
	}
	if err := json.NewEncoder(os.Stdout).Encode(o); err != nil {
		return
	}
	select {} // until somebody kills us
}

// folder makes an empty folder that the unprivileged user can get to: the
// test's own one is closed to others.
func folder(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for _, d := range []string{dir, filepath.Dir(dir)} {
		if err := os.Chmod(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// start starts a cluster that the end of the test stops.
func start(t *testing.T, cfg embedded.PostgresConfig) *embedded.Postgres {
	t.Helper()
	p, err := embedded.StartPostgres(t.Context(), cfg)
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

// query returns the one value that the statement yields.
func query[T any](t *testing.T, url, sql string, args ...any) T {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close(ctx) }()
	var v T
	if err := conn.QueryRow(ctx, sql, args...).Scan(&v); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	return v
}

// empty fails the test if anything is in dir.
func empty(t *testing.T, dir string) {
	t.Helper()
	left, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range left {
		t.Errorf("%s was left behind", e.Name())
	}
}

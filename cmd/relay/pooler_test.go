package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/skald-saga/skald/internal/testkit"
)

// pooled puts a PgBouncer in front of a database, which gives every transaction
// the next of so many connections, and returns the URL to go through it.
func pooled(t testing.TB, url string, connections int) string {
	t.Helper()
	program, err := exec.LookPath("pgbouncer")
	if err != nil {
		if program, err = exec.LookPath("/usr/sbin/pgbouncer"); err != nil {
			t.Fatal("there is no pgbouncer: apt-get install pgbouncer")
		}
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := ln.Addr().String()
	if err := ln.Close(); err != nil {
		t.Fatal(err)
	}
	_, port, err := net.SplitHostPort(addr)
	if err != nil {
		t.Fatal(err)
	}
	config := fmt.Sprintf(`[databases]
db = %s
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = %s
unix_socket_dir =
auth_type = any
pool_mode = transaction
server_round_robin = 1
default_pool_size = %d
`, plain(url), port, connections)
	if os.Getuid() == 0 {
		config += "user = nobody\n" // it does not run as root
	}
	file := filepath.Join(t.TempDir(), "pgbouncer.ini")
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd, out := exec.Command(program, file), &output{}
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if t.Failed() {
			t.Logf("pgbouncer:\n%s", out)
		}
	})
	through := "postgres://anybody@" + addr + "/db?sslmode=disable&default_query_exec_mode=exec"
	testkit.Eventually(t, "pgbouncer answers", 30*time.Second, func() (bool, string) {
		conn, err := pgx.Connect(t.Context(), through)
		if err != nil {
			return false, err.Error()
		}
		return conn.Close(t.Context()) == nil, ""
	})
	return through
}

// Everything works through a pooler in transaction mode, which gives each
// statement another connection: leases, hand-over, publishing, status.
func TestRelaysWorkThroughAPoolerInTransactionMode(t *testing.T) {
	t.Parallel()
	broker := testkit.NATS(t).URL()
	db, pool := withLanes(t, 4)
	s, through := stream(t, broker), pooled(t, db, 3)

	first := start(t, through, broker, "--lease", "3s")
	start(t, through, broker, "--lease", "3s")
	third := start(t, through, broker, "--lease", "3s")
	var ids []string
	n := 0
	write := func(rows int) {
		t.Helper()
		for range rows {
			ids = append(ids, insert(t, pool, strconv.Itoa(n%7), "s."+strconv.Itoa(n)))
			n++
		}
	}
	testkit.Eventually(t, "the three share four lanes", time.Minute, func() (bool, string) {
		write(10)
		var holders int
		err := pool.QueryRow(t.Context(), `SELECT count(DISTINCT owner) FROM outbox_lane WHERE lease_until > clock_timestamp()`).Scan(&holders)
		return err == nil && holders >= 2, fmt.Sprint(holders, err)
	})
	if code := first.stop(t, syscall.SIGTERM); code != 0 {
		t.Errorf("exit status %d", code)
	}
	write(300)
	third.kill()
	write(300)
	awaitIDs(t, s, ids...)
	inOrder(t, s)
	command(t, 0, "status", "--database-url", through)
	servers := map[int]bool{} // that one connection is given while others are at work
	conn, err := pgx.Connect(t.Context(), through)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close(context.Background()) }()
	testkit.Eventually(t, "the pooler swaps connections", 20*time.Second, func() (bool, string) {
		var pid int
		err := conn.QueryRow(t.Context(), `SELECT pg_backend_pid()`).Scan(&pid)
		servers[pid] = true
		return err == nil && len(servers) > 1, fmt.Sprint(servers, err)
	})
}

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/skald-saga/skald/internal/bus"
	"github.com/skald-saga/skald/internal/testkit"
	"github.com/skald-saga/skald/internal/wire"
)

func TestMain(m *testing.M) { testkit.Main(m) }

func TestAUsageErrorIsOneLineAndStatus2(t *testing.T) {
	t.Setenv("DATABASE_URL", "")
	for name, tc := range map[string]struct {
		args []string
		says string
	}{
		"no database":           {nil, "--database-url"},
		"no Postgres URL":       {[]string{"--database-url", "postgres://u:secret@h:x/"}, "--database-url"},
		"no NATS URL":           {[]string{"--database-url", "postgres:///shop", "--nats-url", "nats://h:x"}, "--nats-url"},
		"no connections":        {[]string{"--database-url", "postgres:///shop", "--connections", "0"}, "--connections"},
		"a prefix that is none": {[]string{"--database-url", "postgres:///shop", "--prefix", "a b"}, "--prefix"},
		"an unknown flag":       {[]string{"--databse-url", "postgres:///shop"}, "--databse-url"},
		"an argument":           {[]string{"--database-url", "postgres:///shop", "now"}, "now"},
	} {
		var stdout, stderr bytes.Buffer
		status := run(t.Context(), tc.args, &stdout, &stderr)
		out := stderr.String()
		if status != 2 || strings.Count(out, "\n") != 1 || !strings.Contains(out, tc.says) || strings.Contains(out, "secret") {
			t.Errorf("%s: status %d, stderr %q; want 2 and one line that names %s", name, status, out, tc.says)
		}
	}
}

func TestHelpIsNotAnError(t *testing.T) {
	t.Parallel()
	var stdout, stderr bytes.Buffer
	if status := run(t.Context(), []string{"--help"}, &stdout, &stderr); status != 0 || !strings.Contains(stdout.String(), "$DATABASE_URL") {
		t.Errorf("status %d, stdout %q, want 0 and the flags with their variables", status, stdout.String())
	}
}

// P2: the participants may be started before everything else, and stop when
// they are told to.
func TestTheProgramWaitsForItsServersAndStopsOnASignal(t *testing.T) {
	t.Parallel()
	program := testkit.Build(t, "examples/order")
	cluster, server := testkit.Cluster(t), testkit.NATS(t)
	server.Halt()
	cluster.Kill()
	var stderr bytes.Buffer
	cmd := exec.Command(program, "--install")
	cmd.Env = append(cmd.Environ(), "DATABASE_URL="+cluster.URL("postgres"), "NATS_URL="+server.URL())
	cmd.Stderr = &stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	t.Cleanup(func() { _ = cmd.Process.Kill() })

	if err := cluster.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	if r := reserve(t, server.URL()); r.Outcome != wire.Succeeded {
		t.Errorf("reply %s %v, want succeeded", r.Outcome, r.Failure)
	}
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-ended:
		if err != nil {
			t.Errorf("%v: %s", err, stderr.String())
		}
	case <-time.After(30 * time.Second):
		t.Fatal("the program does not stop")
	}
	conn, err := pgx.Connect(t.Context(), cluster.URL("postgres"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close(context.Background()) }()
	var reserved int
	if err := conn.QueryRow(t.Context(), `SELECT reserved FROM inventory.stock WHERE sku = 'book'`).Scan(&reserved); err != nil || reserved != 2 {
		t.Errorf("reserved %d (%v), want 2", reserved, err)
	}
}

// Without its tables every order would be undone, with SQL as the reason.
func TestWithoutTablesTheProgramSaysHowToMakeThem(t *testing.T) {
	t.Parallel()
	cluster, server := testkit.Cluster(t), testkit.NATS(t)
	cluster.Kill()
	stderr := make(lines, 100)
	ended := make(chan int, 1)
	go func() {
		args := []string{"--database-url", cluster.URL("postgres"), "--nats-url", server.URL()}
		ended <- run(t.Context(), args, io.Discard, stderr)
	}()
	if line := stderr.next(t); !strings.Contains(line, "waiting for the database") {
		t.Fatalf("without a database it says %q, want that it waits", line)
	}
	if err := cluster.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if line, want := stderr.next(t), "order: the shop's tables are not there; run once with --install\n"; line != want {
		t.Fatalf("it says %q, want %q", line, want)
	}
	if status := <-ended; status != 2 || len(stderr) != 0 {
		t.Errorf("status %d and %d more lines, want 2 and none", status, len(stderr))
	}
}

// lines are what a program writes: one line at a time.
type lines chan string

func (l lines) Write(b []byte) (int, error) {
	l <- string(b)
	return len(b), nil
}

func (l lines) next(t *testing.T) string {
	t.Helper()
	select {
	case line := <-l:
		return line
	case <-time.After(30 * time.Second):
		t.Fatal("it says nothing")
		return ""
	}
}

// reserve has two books put aside and returns the reply.
func reserve(t *testing.T, url string) wire.Reply {
	t.Helper()
	nc, err := nats.Connect(url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	if err := (bus.Topology{Prefix: "skald", Participants: []string{"inventory", "payment", "shipping", "bank"}}).Ensure(t.Context(), js); err != nil {
		t.Fatal(err)
	}
	c := wire.Command{
		EffectID: wire.EffectID{Saga: "0198c5a0-0000-7000-8000-000000000000", Step: "reserve-stock", Phase: wire.Action, Generation: 1},
		Saga:     "0198c5a0-0000-7000-8000-000000000000", Attempt: 1, ReplyTo: wire.ReplySubject("skald", 0), EffectTime: time.Now(),
	}
	var headers map[string]string
	if err := json.Unmarshal(c.AppendHeaders(nil), &headers); err != nil {
		t.Fatal(err)
	}
	m := &nats.Msg{Subject: wire.CommandSubject("skald", "inventory", "reserve"), Header: nats.Header{}, Data: []byte(`{"items": [{"sku": "book", "quantity": 2}]}`)}
	for name, value := range headers {
		m.Header[name] = []string{value}
	}
	if _, err := js.PublishMsg(t.Context(), m); err != nil {
		t.Fatal(err)
	}
	consumer, err := js.Consumer(t.Context(), wire.RepliesStream("skald"), bus.EngineConsumer)
	if err != nil {
		t.Fatal(err)
	}
	reply, err := consumer.Next(jetstream.FetchMaxWait(30 * time.Second))
	if err != nil {
		t.Fatal(err)
	}
	r, err := wire.DecodeReply(reply.Headers(), reply.Data())
	if err != nil {
		t.Fatal(err)
	}
	return r
}

package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/skald-saga/skald/internal/testkit"
)

func TestMain(m *testing.M) { testkit.Main(m) }

// process is the real program at work.
type process struct {
	cmd    *exec.Cmd
	stderr *output
	exited chan struct{}
	code   int
}

// start starts `relay run`, without anything of the test's own environment.
func start(t testing.TB, databaseURL, natsURL string, args ...string) *process {
	t.Helper()
	return startCommand(t, databaseURL, natsURL, append([]string{"run"}, args...)...)
}

func startCommand(t testing.TB, databaseURL, natsURL string, args ...string) *process {
	t.Helper()
	cmd := exec.Command(testkit.Build(t, "cmd/relay"), append(args[:len(args):len(args)], "--admin-addr", "127.0.0.1:0")...)
	cmd.Env = []string{"DATABASE_URL=" + databaseURL, "NATS_URL=" + natsURL, "HOME=" + os.TempDir()}
	p := &process{cmd: cmd, stderr: &output{}, exited: make(chan struct{})}
	cmd.Stderr = p.stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		_ = cmd.Wait()
		p.code = cmd.ProcessState.ExitCode()
		close(p.exited)
	}()
	t.Cleanup(func() {
		p.kill()
		if t.Failed() {
			t.Logf("relay %v:\n%s", args, p.stderr)
		}
	})
	return p
}

// kill ends the process as a crash would.
func (p *process) kill() {
	_ = p.cmd.Process.Kill()
	<-p.exited
}

// stop sends a signal and returns the exit status.
func (p *process) stop(t testing.TB, s syscall.Signal) int {
	t.Helper()
	if err := p.cmd.Process.Signal(s); err != nil {
		t.Fatal(err)
	}
	return p.wait(t)
}

func (p *process) wait(t testing.TB) int {
	t.Helper()
	select {
	case <-p.exited:
	case <-time.After(40 * time.Second): // more than the default --drain-timeout
		t.Fatal("the relay does not end")
	}
	return p.code
}

// admin finds the port of health and metrics in the log.
func (p *process) admin(t testing.TB) string {
	t.Helper()
	addr := ""
	testkit.Eventually(t, "the admin port", 20*time.Second, func() (bool, string) {
		for line := range strings.Lines(p.stderr.String()) {
			var entry struct{ Msg, Addr string }
			if json.Unmarshal([]byte(line), &entry) == nil && entry.Msg == "serving health and metrics" {
				addr = entry.Addr
			}
		}
		return addr != "", p.stderr.String()
	})
	return "http://" + addr
}

// get returns status and body.
func get(t testing.TB, url string) (int, string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, err.Error()
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return 0, err.Error()
	}
	return resp.StatusCode, string(body)
}

// awaitReady waits until /readyz says what it should.
func awaitReady(t testing.TB, admin string, status int, checks map[string]string) {
	t.Helper()
	testkit.Eventually(t, fmt.Sprintf("readiness %d %v", status, checks), 30*time.Second, func() (bool, string) {
		got, body := get(t, admin+"/readyz")
		var report struct{ Checks map[string]string }
		if err := json.Unmarshal([]byte(body), &report); err != nil {
			return false, body
		}
		ok := got == status
		for name, want := range checks {
			ok = ok && report.Checks[name] == want
		}
		return ok, fmt.Sprint(got, body)
	})
}

// output collects what a process writes.
type output struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (o *output) Write(b []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.Write(b)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.String()
}

// plain returns the lines that are not log entries.
func (o *output) plain() (lines []string) {
	for line := range strings.Lines(o.String()) {
		if !strings.HasPrefix(line, "{") {
			lines = append(lines, strings.TrimSpace(line))
		}
	}
	return lines
}

// insert writes a row and returns its message id.
func insert(t testing.TB, pool *pgxpool.Pool, key, subject string) string {
	t.Helper()
	var id string
	if err := pool.QueryRow(t.Context(), `SELECT outbox_append($1, $2, '{}', '{}')::text`, key, subject).Scan(&id); err != nil {
		t.Fatal(err)
	}
	return id
}

// stream makes a stream S for s.> and returns it.
func stream(t testing.TB, url string) jetstream.Stream {
	t.Helper()
	return streamFor(t, url, "s.>")
}

func streamFor(t testing.TB, url string, subjects ...string) jetstream.Stream {
	t.Helper()
	nc, err := nats.Connect(url, nats.MaxReconnects(-1), nats.ReconnectWait(50*time.Millisecond))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	s, err := js.CreateOrUpdateStream(t.Context(), jetstream.StreamConfig{Name: "S", Subjects: subjects})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// awaitIDs waits until a stream holds exactly these messages, in any order.
func awaitIDs(t testing.TB, s jetstream.Stream, want ...string) {
	t.Helper()
	testkit.Eventually(t, fmt.Sprintf("%d messages", len(want)), time.Minute, func() (bool, string) {
		info, err := s.Info(t.Context())
		if err != nil {
			return false, err.Error()
		}
		return info.State.Msgs >= uint64(len(want)), fmt.Sprintf("%d are there", info.State.Msgs)
	})
	times := map[string]int{}
	for seq := range s.CachedInfo().State.LastSeq {
		m, err := s.GetMsg(t.Context(), seq+1)
		if err != nil {
			t.Fatal(err)
		}
		times[m.Header.Get("Nats-Msg-Id")]++
	}
	for _, id := range want {
		if times[id] != 1 {
			t.Errorf("message %s is there %d times", id, times[id])
		}
	}
	if len(times) != len(want) {
		t.Errorf("%d messages are there, want %d", len(times), len(want))
	}
}

// fakeNATS takes connections and answers pings. The first few connections it
// ends with an error, the very first one after it was established.
func fakeNATS(t testing.TB, bad int, complaint string) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = ln.Close() })
	go func() {
		for n := 0; ; n++ {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			go serveNATS(conn, n > 0 && n < bad, n == 0, complaint)
		}
	}()
	return "nats://" + ln.Addr().String()
}

func serveNATS(conn net.Conn, refuse, complain bool, complaint string) {
	defer func() { _ = conn.Close() }()
	fmt.Fprintf(conn, "INFO {\"server_id\":\"fake\",\"version\":\"2.15.0\",\"max_payload\":1048576,\"headers\":true}\r\n")
	for lines := bufio.NewScanner(conn); lines.Scan(); {
		if lines.Text() != "PING" {
			continue
		}
		if refuse {
			fmt.Fprintf(conn, "%s\r\n", complaint)
			return
		}
		fmt.Fprintf(conn, "PONG\r\n")
		if complain {
			fmt.Fprintf(conn, "%s\r\n", complaint)
			return
		}
	}
}

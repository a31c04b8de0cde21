package main

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/skald-saga/skald/internal/program"
	"github.com/skald-saga/skald/internal/testkit"
	"github.com/skald-saga/skald/migrations"
)

// free is an address that nobody listens on.
func free(t *testing.T) string {
	t.Helper()
	ln, err := program.Listen("x", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = ln.Close() }()
	return ln.Addr().String()
}

// ask returns the status and the body of an answer; 0 if there is none.
func ask(method, url, body string) (int, string) {
	client := http.Client{Timeout: 20 * time.Second}
	req, err := http.NewRequest(method, url, strings.NewReader(body))
	if err != nil {
		return 0, err.Error()
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := client.Do(req)
	if err != nil {
		return 0, err.Error()
	}
	defer func() { _ = resp.Body.Close() }()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		return 0, err.Error()
	}
	return resp.StatusCode, string(b)
}

// Whoever asks a server that waits for its database gets an answer, and its
// work begins by itself.
func TestAServerThatWaitsForPostgresAnswers(t *testing.T) {
	t.Parallel()
	db := testkit.Cluster(t)
	url := db.URL("postgres")
	if err := migrations.Up(t.Context(), url); err != nil {
		t.Fatal(err)
	}
	db.Kill()
	api, admin := free(t), free(t)
	cmd := exec.Command(testkit.Build(t, "cmd/server"), "serve", "--http-addr", api, "--admin-addr", admin)
	cmd.Env = append(os.Environ(), "DATABASE_URL="+url, "NATS_URL="+testkit.NATS(t).URL())
	var log bytes.Buffer
	cmd.Stderr = &log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = cmd.Process.Kill() // unless it has ended
		_ = cmd.Wait()
		if t.Failed() {
			t.Logf("serve said:\n%s", &log)
		}
	}()
	order := strings.NewReplacer("PAYMENT", "pm_ok", "SKU", "book").Replace(orderBody)
	testkit.Eventually(t, "the API answers", 30*time.Second, func() (bool, string) {
		code, body := ask("GET", "http://"+api+"/livez", "")
		return code == http.StatusOK, body
	})
	for _, c := range []struct {
		method, url, body string
		code              int
		says              string
	}{
		{"GET", admin + "/livez", "", 200, "ok"},
		{"GET", admin + "/readyz", "", 503, `"database":"failing"`},
		{"GET", api + "/readyz", "", 503, `"database":"failing"`},
		{"POST", api + "/v1/orders", order, 503, "database-unavailable"},
		{"GET", api + "/v1/sagas", "", 503, "has not started"},
	} {
		if code, body := ask(c.method, "http://"+c.url, c.body); code != c.code || !strings.Contains(body, c.says) {
			t.Errorf("%s %s: %d %s; want %d and %s", c.method, c.url, code, body, c.code, c.says)
		}
	}
	if err := db.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, addr := range []string{api, admin} {
		testkit.Eventually(t, "the server is ready", time.Minute, func() (bool, string) {
			code, body := ask("GET", "http://"+addr+"/readyz", "")
			return code == http.StatusOK, body
		})
	}
	if code, body := ask("POST", "http://"+api+"/v1/orders", order); code != http.StatusAccepted {
		t.Errorf("an order then: %d %s", code, body)
	}
	if err := cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("after Ctrl-C: %v", err)
	}
}

func TestParticipantsStopAfterTheEngine(t *testing.T) {
	t.Parallel()
	broken := errors.New("broken")
	for name, fails := range map[string]error{"told to stop": nil, "the engine fails": broken} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ctx, cancel := context.WithCancel(t.Context())
			running := make(chan context.Context, 1)
			err := outlive(ctx, func(ctx context.Context) error {
				participants := <-running
				if fails == nil {
					cancel()
					<-ctx.Done()
				}
				if participants.Err() != nil {
					t.Error("the participants were told to stop while the engine was at work")
				}
				return fails
			}, func(ctx context.Context) error {
				running <- ctx
				<-ctx.Done()
				return nil
			})
			cancel()
			if !errors.Is(err, fails) {
				t.Errorf("got %v, want %v", err, fails)
			}
		})
	}
}

func TestTheEngineStopsIfItsParticipantsFail(t *testing.T) {
	t.Parallel()
	broken := errors.New("broken")
	err := outlive(t.Context(), func(ctx context.Context) error { <-ctx.Done(); return nil },
		func(context.Context) error { return broken })
	if !errors.Is(err, broken) {
		t.Errorf("got %v", err)
	}
}

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/skald-saga/skald/internal/testkit"
)

// dev is a running `server dev`.
type dev struct {
	endpoints
	t   *testing.T
	cmd *exec.Cmd
	log *bytes.Buffer
}

// startDev starts the program as its users do, on free ports, with a folder
// for temporary files of its own.
func startDev(t *testing.T, tmp string, args ...string) *dev {
	t.Helper()
	ready := filepath.Join(t.TempDir(), "ready.json")
	args = append([]string{"dev", "--http-addr", "127.0.0.1:0", "--nats-addr", "127.0.0.1:0", "--ready-file", ready}, args...)
	d := &dev{t: t, log: &bytes.Buffer{}, cmd: exec.Command(testkit.Build(t, "cmd/server"), args...)}
	d.cmd.Stdout, d.cmd.Stderr = d.log, d.log
	d.cmd.Env = append(os.Environ(), "TMPDIR="+tmp, "DATABASE_URL=", "NATS_URL=")
	if err := d.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = d.cmd.Process.Kill() // unless it has ended
		_ = d.cmd.Wait()
		if t.Failed() {
			t.Logf("dev said:\n%s", d.log)
		}
	})
	testkit.Eventually(t, "dev is ready", time.Minute, func() (bool, string) {
		b, err := os.ReadFile(ready)
		return err == nil && json.Unmarshal(b, &d.endpoints) == nil, ""
	})
	return d
}

// interrupt is Ctrl-C.
func (d *dev) interrupt() {
	d.t.Helper()
	if err := d.cmd.Process.Signal(os.Interrupt); err != nil {
		d.t.Fatal(err)
	}
	if err := d.cmd.Wait(); err != nil {
		d.t.Errorf("after Ctrl-C: %v", err)
	}
}

// order is what these tests read of an order.
type order struct {
	ID     string
	Status string
	Total  string
	Reason struct{ Code, Step string }
}

const orderBody = `{"customer_id": "c-42", "currency": "EUR", "payment_method": "PAYMENT",
	"items": [{"sku": "SKU", "quantity": 2, "unit_price": "12.50"}], "ship_to": {"name": "Ada", "country": "DE"}}`

func (d *dev) order(payment, sku string, headers ...string) (order, int) {
	d.t.Helper()
	body := strings.NewReplacer("PAYMENT", payment, "SKU", sku).Replace(orderBody)
	req, err := http.NewRequest(http.MethodPost, d.HTTP+"/v1/orders", strings.NewReader(body))
	if err != nil {
		d.t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	for i := 0; i < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	var o order
	return o, d.do(req, &o)
}

func (d *dev) get(path string, into any) int {
	d.t.Helper()
	req, err := http.NewRequest(http.MethodGet, d.HTTP+path, nil)
	if err != nil {
		d.t.Fatal(err)
	}
	return d.do(req, into)
}

func (d *dev) do(req *http.Request, into any) int {
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		d.t.Error(err)
		return 0
	}
	defer func() { _ = resp.Body.Close() }()
	b, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode < 300 {
		err = json.Unmarshal(b, into)
	}
	if err != nil {
		d.t.Errorf("%s %s: %v: %s", req.Method, req.URL.Path, err, b)
	}
	return resp.StatusCode
}

func query(t *testing.T, url, sql string, args ...any) string {
	t.Helper()
	conn, err := pgx.Connect(context.Background(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close(context.Background()) }()
	var v string
	if err := conn.QueryRow(context.Background(), sql, args...).Scan(&v); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	return v
}

// The README's first steps, one for each way an order can go.
func TestDevTakesOrdersToTheirEnd(t *testing.T) {
	t.Parallel()
	tmp := enterable(t)
	d := startDev(t, tmp)
	stock := func() string {
		return query(t, d.Shop, `SELECT string_agg(sku || ' ' || on_hand || ' ' || reserved || ' ' || sold, ', ' ORDER BY sku) FROM inventory.stock`)
	}
	before := stock()
	var wg sync.WaitGroup
	for name, c := range map[string]struct {
		payment, sku string
		status, code string
		charges      string
	}{
		"declined":     {"pm_declined", "lamp", "cancelled", "card_declined", ""},
		"out of stock": {"pm_ok", "unicorn", "cancelled", "out_of_stock", ""},
		"silent":       {"pm_silent", "lamp", "cancelled", "timeout", "refunded"},
	} {
		wg.Go(func() {
			o, code := d.order(c.payment, c.sku, "Prefer", "wait=40")
			if code != http.StatusOK || o.Status != c.status || o.Reason.Code != c.code {
				t.Errorf("%s: %d, %+v; want %s because of %s", name, code, o, c.status, c.code)
			}
			if got := query(t, d.Shop, `SELECT coalesce(string_agg(status, ', '), '') FROM payment.charges WHERE order_id::text = $1`, o.ID); got != c.charges {
				t.Errorf("%s: charges %q, want %q", name, got, c.charges)
			}
		})
	}
	wg.Wait()
	if after := stock(); after != before {
		t.Errorf("cancelled orders left the stock %s; it was %s", after, before)
	}
	for _, payment := range []string{"pm_ok", "pm_flaky"} {
		o, code := d.order(payment, "lamp", "Prefer", "wait=30")
		if code != http.StatusOK || o.Status != "confirmed" || o.Total != "25.00" {
			t.Errorf("%s: %d, %+v", payment, code, o)
		}
		if got := query(t, d.Shop, `SELECT string_agg(status || ' ' || amount::numeric(9,2), ', ') FROM payment.charges WHERE order_id::text = $1`, o.ID); got != "charged 25.00" {
			t.Errorf("%s: charges %s", payment, got)
		}
		d.readSaga(o.ID)
	}
	if got := query(t, d.Shop, `SELECT on_hand || ' ' || reserved || ' ' || sold FROM inventory.stock WHERE sku = 'lamp'`); got != "6 0 4" {
		t.Errorf("lamps: %s, want 6 on hand, none reserved, 4 sold", got)
	}
	for path, says := range map[string]string{"/metrics": "saga_started_total", "/debug/pprof/": "goroutine", "/debug/pprof/cmdline": "dev"} {
		if code, body := ask(http.MethodGet, d.HTTP+path, ""); code != http.StatusOK || !strings.Contains(body, says) {
			t.Errorf("%s: %d, %s", path, code, body)
		}
	}
	d.interrupt()
	if left, _ := os.ReadDir(tmp); len(left) > 0 {
		t.Errorf("Ctrl-C left %v", left)
	}
}

// enterable is a folder for temporary files that the unprivileged user, whom
// Postgres runs as, can reach.
func enterable(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "dev-test-") //nolint:usetesting // the test's own folder is closed to others
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

// readSaga reads the saga of a confirmed order, its steps and its history.
func (d *dev) readSaga(id string) {
	d.t.Helper()
	var s struct {
		Status string
		Steps  []struct{ Name, Status string }
	}
	if code := d.get("/v1/sagas/"+id, &s); code != http.StatusOK || s.Status != "completed" || len(s.Steps) != 4 {
		d.t.Errorf("saga: %d, %+v", code, s)
	}
	for _, step := range s.Steps {
		if step.Status != "succeeded" {
			d.t.Errorf("step %s is %s", step.Name, step.Status)
		}
	}
	var h struct{ Items []struct{ Type string } }
	if code := d.get("/v1/sagas/"+id+"/history", &h); code != http.StatusOK || len(h.Items) < 9 {
		d.t.Errorf("history: %d, %+v", code, h)
	}
}

// P8: one key, sent a hundred times at once.
func TestDevMakesOneOrderOfAHundredRequestsWithOneKey(t *testing.T) {
	t.Parallel()
	d := startDev(t, enterable(t))
	var (
		wg  sync.WaitGroup
		mu  sync.Mutex
		ids = map[string]int{}
	)
	for range 100 {
		wg.Go(func() {
			o, code := d.order("pm_ok", "book", "Idempotency-Key", "a-key")
			if code != http.StatusAccepted && code != http.StatusOK {
				t.Errorf("status %d", code)
			}
			mu.Lock()
			defer mu.Unlock()
			ids[o.ID]++
		})
	}
	wg.Wait()
	if len(ids) != 1 || query(t, d.Postgres, `SELECT count(*)::text FROM orders`) != "1" {
		t.Errorf("orders %v", ids)
	}
	if _, code := d.order("pm_declined", "book", "Idempotency-Key", "a-key"); code != http.StatusUnprocessableEntity {
		t.Errorf("another body under the key: status %d, want 422", code)
	}
	d.interrupt()
}

// P2: killed with an order in flight and started again on the same folder, it
// takes the order to its end.
func TestDevGoesOnFromItsDataAfterKill9(t *testing.T) {
	t.Parallel()
	tmp := enterable(t)
	data := filepath.Join(tmp, "data")
	d := startDev(t, tmp, "--data", data)
	o, code := d.order("pm_slow", "lamp")
	if code != http.StatusAccepted || o.Status != "pending" {
		t.Fatalf("%d, %+v", code, o)
	}
	if err := d.cmd.Process.Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	_ = d.cmd.Wait()
	d = startDev(t, tmp, "--data", data)
	testkit.Eventually(t, "the order is confirmed", time.Minute, func() (bool, string) {
		d.get("/v1/orders/"+o.ID, &o)
		return o.Status == "confirmed", o.Status
	})
	if got := query(t, d.Shop, `SELECT count(*) || ' ' || min(status) FROM payment.charges`); got != "1 charged" {
		t.Errorf("charges: %s", got)
	}
	d.interrupt()
}

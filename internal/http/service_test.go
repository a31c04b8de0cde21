package http_test

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"log/slog"
	stdhttp "net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/skald-saga/skald/internal/coordinator"
	"github.com/skald-saga/skald/internal/http"
	"github.com/skald-saga/skald/internal/http/api"
	"github.com/skald-saga/skald/internal/saga"
	"github.com/skald-saga/skald/internal/telemetry"
	"github.com/skald-saga/skald/internal/testkit"
	"github.com/skald-saga/skald/internal/wire"
)

func TestMain(m *testing.M) { testkit.Main(m) }

// service is the API on a real coordinator and a database of its own. Its
// clock stands still, so that a saga changes only when the test says so. Every
// answer is checked against openapi.yaml.
type service struct {
	t        *testing.T
	pool     *pgxpool.Pool
	sagas    *coordinator.Coordinator
	health   *telemetry.Health
	registry *prometheus.Registry
	log      *logs
	url      string
	client   *stdhttp.Client
	stopping func() // tells the API that the server drains
	stop     func() // stops the coordinator
}

type option func(*options)

type options struct {
	pool        *pgxpool.Pool
	coordinator coordinator.Config
	idle        bool // the coordinator does not run
	undefined   bool // no definition is registered
	checks      map[string]telemetry.Check
	lag         http.LagFunc
}

func newService(t *testing.T, opts ...option) *service {
	t.Helper()
	var o options
	for _, opt := range opts {
		opt(&o)
	}
	if o.pool == nil {
		o.pool = testkit.Postgres(t)
	}
	now := time.Now()
	o.coordinator.Pool, o.coordinator.Log, o.coordinator.Now = o.pool, testkit.Log(t), func() time.Time { return now }
	s := &service{
		t: t, pool: o.pool, sagas: coordinator.New(o.coordinator), health: telemetry.NewHealth(testkit.Log(t), o.checks),
		registry: prometheus.NewRegistry(), log: &logs{},
	}
	if !o.undefined {
		s.register()
	}
	s.run(o.idle)
	stopping := make(chan struct{})
	s.stopping = sync.OnceFunc(func() { close(stopping) })
	handler, err := http.New(http.Config{
		Sagas: s.sagas, Log: slog.New(slog.NewJSONHandler(s.log, nil)), Health: s.health, Registerer: s.registry,
		Admin: telemetry.Admin(s.health, s.registry), Version: "1.2.3-test", Stopping: stopping, Lag: o.lag,
	})
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(handler)
	t.Cleanup(server.Close)
	s.url = server.URL
	s.client = &stdhttp.Client{Timeout: time.Minute, Transport: newChecker(t)}
	t.Cleanup(s.client.CloseIdleConnections)
	return s
}

func (s *service) register() {
	s.t.Helper()
	text, err := os.ReadFile(filepath.Join(testkit.Root(s.t), "definitions", "order.yaml"))
	if err != nil {
		s.t.Fatal(err)
	}
	def, err := saga.Parse(text)
	if err != nil {
		s.t.Fatal(err)
	}
	if err := s.sagas.Register(s.t.Context(), def); err != nil {
		s.t.Fatal(err)
	}
}

func (s *service) run(idle bool) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	if idle {
		done <- nil
	} else {
		go func() { done <- s.sagas.Run(ctx) }()
	}
	s.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			s.t.Error(err)
		}
	})
	s.t.Cleanup(s.stop)
}

// logs keeps what the API logs.
type logs struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *logs) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(b)
}

func (l *logs) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

// answer is what came back.
type answer struct {
	status int
	header stdhttp.Header
	body   []byte
}

// do sends a request. Headers are given as name, value, name, value, …; a body
// is JSON unless Content-Type says otherwise.
func (s *service) do(method, path, body string, headers ...string) answer {
	s.t.Helper()
	a, err := s.try(s.t.Context(), method, path, body, headers...)
	if err != nil {
		s.t.Fatal(err)
	}
	return a
}

func (s *service) try(ctx context.Context, method, path, body string, headers ...string) (answer, error) {
	req, err := stdhttp.NewRequestWithContext(ctx, method, s.url+path, strings.NewReader(body))
	if err != nil {
		return answer{}, err
	}
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	for i := 0; i < len(headers); i += 2 {
		if headers[i+1] == "" {
			req.Header.Del(headers[i])
			continue
		}
		if req.Header.Get(headers[i]) == "application/json" {
			req.Header.Del(headers[i])
		}
		req.Header.Add(headers[i], headers[i+1])
	}
	resp, err := s.client.Do(req)
	if err != nil {
		return answer{}, err
	}
	defer func() { _ = resp.Body.Close() }()
	b, err := io.ReadAll(resp.Body)
	return answer{resp.StatusCode, resp.Header, b}, err
}

// decode reads the body of an answer that must have one of the statuses.
func decode[T any](t *testing.T, a answer, status int) T {
	t.Helper()
	var v T
	if a.status != status {
		t.Fatalf("status is %d, want %d: %s", a.status, status, a.body)
	}
	if err := json.Unmarshal(a.body, &v); err != nil {
		t.Fatalf("%v: %s", err, a.body)
	}
	return v
}

const oneBook = `{"customer_id": "c-42", "currency": "EUR", "items": [{"sku": "book", "quantity": 2, "unit_price": "12.5"}], "payment_method": "pm_ok"}`

// place places an order that nobody works on yet.
func (s *service) place() api.Order {
	s.t.Helper()
	return decode[api.Order](s.t, s.do("POST", "/v1/orders", oneBook), stdhttp.StatusAccepted)
}

// reply is what a participant says of one command of a saga.
func (s *service) reply(id uuid.UUID, step string, phase wire.Phase, outcome wire.Outcome, body string) {
	s.t.Helper()
	r := wire.Reply{EffectID: wire.EffectID{Saga: id.String(), Step: step, Phase: phase, Generation: 1}, Outcome: outcome}
	if outcome == wire.Failed {
		r.Failure = &wire.Failure{Code: body, Message: "as the test wants it"}
	} else {
		r.Body = json.RawMessage(body)
	}
	if err := s.sagas.HandleReplies(s.t.Context(), []coordinator.Delivery{{Reply: r}}); err != nil {
		s.t.Fatal(err)
	}
}

// confirm lets an order that is not shipped succeed.
func (s *service) confirm(id uuid.UUID) {
	s.t.Helper()
	s.reply(id, "reserve-stock", wire.Action, wire.Succeeded, `{"id": "r-1"}`)
	s.reply(id, "charge-customer", wire.Action, wire.Succeeded, `null`)
	s.reply(id, "update-inventory", wire.Action, wire.Succeeded, `null`)
}

// decline lets an order fail at the payment.
func (s *service) decline(id uuid.UUID) {
	s.t.Helper()
	s.reply(id, "reserve-stock", wire.Action, wire.Succeeded, `{"id": "r-1"}`)
	s.reply(id, "charge-customer", wire.Action, wire.Failed, "card-declined")
	s.reply(id, "reserve-stock", wire.Compensation, wire.Succeeded, `null`)
}

// rows counts what starts write.
func (s *service) rows() (n int) {
	s.t.Helper()
	const q = `SELECT (SELECT count(*) FROM saga) + (SELECT count(*) FROM orders) + (SELECT count(*) FROM outbox) +
		(SELECT count(*) FROM idempotency_key) + (SELECT count(*) FROM saga_history)`
	if err := s.pool.QueryRow(s.t.Context(), q).Scan(&n); err != nil {
		s.t.Fatal(err)
	}
	return n
}

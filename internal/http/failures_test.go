package http_test

import (
	"context"
	stdhttp "net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/skald-saga/skald/internal/http"
	"github.com/skald-saga/skald/internal/http/api"
	"github.com/skald-saga/skald/internal/telemetry"
	"github.com/skald-saga/skald/internal/testkit"
	"github.com/skald-saga/skald/migrations"
)

func TestUnknownPathsAndMethodsAreProblemsToo(t *testing.T) {
	t.Parallel()
	s := newService(t)
	for _, path := range []string{"/nothing", "/v1", "/v1/orders/", "/V1/orders", "/v1/orders/a/b/c", "/..%2f", "/v1/letters"} {
		if p := decode[api.Problem](t, s.do("GET", path, ""), stdhttp.StatusNotFound); p.Code != api.ProblemCodeNotFound {
			t.Errorf("%s: %+v", path, p)
		}
	}
	for _, c := range []struct{ method, path, allow string }{
		{"DELETE", "/v1/orders", "GET, HEAD, POST"},
		{"PUT", "/v1/orders/" + uuid.NewString(), "GET, HEAD"},
		{"GET", "/v1/orders/" + uuid.NewString() + "/cancel", "POST"},
		{"HEAD", "/v1/sagas/" + uuid.NewString() + "/cancel", "POST"},
		{"POST", "/livez", "GET, HEAD"},
		{"OPTIONS", "/v1/sagas", "GET, HEAD, POST"},
		{"BREW", "/v1/orders", "GET, HEAD, POST"},
	} {
		a := s.do(c.method, c.path, "")
		if got := strings.Join(a.header.Values("Allow"), ", "); a.status != stdhttp.StatusMethodNotAllowed || got != c.allow {
			t.Errorf("%s %s gives %d and allows %q, want 405 and %q", c.method, c.path, a.status, got, c.allow)
		}
	}
}

func TestHeadAnswersAsGetWithoutTheBody(t *testing.T) {
	t.Parallel()
	s := newService(t)
	path := "/v1/orders/" + s.place().Id.String()
	get, head := s.do("GET", path, ""), s.do("HEAD", path, "")
	if head.status != stdhttp.StatusOK || len(head.body) != 0 || head.header.Get("ETag") != get.header.Get("ETag") || head.header.Get("Content-Type") != "application/json" {
		t.Errorf("HEAD gives %d with %v and %q", head.status, head.header, head.body)
	}
}

// A cause is for the log: clients get its request id.
func TestAnUnexpectedErrorIsLoggedAndNotShown(t *testing.T) {
	t.Parallel()
	s := newService(t)
	if _, err := s.pool.Exec(t.Context(), `ALTER TABLE saga RENAME TO misplaced`); err != nil {
		t.Fatal(err)
	}
	for _, request := range [][2]string{{"GET", "/v1/sagas"}, {"GET", "/v1/orders/" + uuid.NewString()}, {"POST", "/v1/orders"}} {
		body := ""
		if request[0] == "POST" {
			body = oneBook
		}
		a := s.do(request[0], request[1], body)
		p := decode[api.Problem](t, a, stdhttp.StatusInternalServerError)
		if p.Code != api.ProblemCodeInternal || p.Detail != nil || p.Errors != nil || strings.Contains(string(a.body), "relation") {
			t.Errorf("%s: %s", request[1], a.body)
		}
		if n := strings.Count(s.log.String(), p.RequestId); n != 1 {
			t.Errorf("%s: the log has the request %d times, want once:\n%s", request[1], n, s.log)
		}
	}
	if !strings.Contains(s.log.String(), "misplaced") && !strings.Contains(s.log.String(), `relation \"saga\" does not exist`) {
		t.Errorf("the log does not have the cause: %s", s.log)
	}
}

// A server may be given definitions of its own, and none that carries orders.
func TestOrdersWithoutTheirDefinitionAreRefused(t *testing.T) {
	t.Parallel()
	s := newService(t, func(o *options) { o.undefined = true })
	if p := decode[api.Problem](t, s.do("POST", "/v1/orders", oneBook), stdhttp.StatusUnprocessableEntity); p.Code != api.ProblemCodeUnknownDefinition || p.Retryable {
		t.Errorf("problem is %+v", p)
	}
	if n := s.rows(); n != 0 {
		t.Errorf("%d rows were written", n)
	}
}

func TestAPanicIsAnInternalError(t *testing.T) {
	t.Parallel()
	s := newService(t, func(o *options) {
		o.checks = map[string]telemetry.Check{"database": func(context.Context) error { panic("a mistake of ours") }}
	})
	if p := decode[api.Problem](t, s.do("GET", "/readyz", ""), stdhttp.StatusInternalServerError); p.Code != api.ProblemCodeInternal {
		t.Errorf("problem is %+v", p)
	}
	if !strings.Contains(s.log.String(), "a mistake of ours") || !strings.Contains(s.log.String(), "failures_test.go") {
		t.Errorf("the log does not say where: %s", s.log)
	}
	if text := string(s.do("GET", "/metrics", "").body); !strings.Contains(text, "http_panics_total 1") {
		t.Error("the panic was not counted")
	}
}

func TestTooManyStartsAreRefusedForNow(t *testing.T) {
	t.Parallel()
	s := newService(t, func(o *options) {
		o.idle, o.coordinator.StartQueue = true, 1 // nobody takes starts out of the queue
	})
	ctx, leave := context.WithCancel(t.Context())
	left := make(chan struct{})
	go func() {
		_, _ = s.try(ctx, "POST", "/v1/orders", oneBook)
		close(left)
	}()
	defer func() { leave(); <-left }()
	testkit.Eventually(t, "the queue is full", 30*time.Second, func() (bool, string) {
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		defer cancel()
		a, err := s.try(ctx, "POST", "/v1/sagas", `{"definition": "order", "input": {"items": []}}`)
		if err != nil {
			return false, err.Error() // ours was the one that fits
		}
		p := decode[api.Problem](t, a, stdhttp.StatusServiceUnavailable)
		return p.Code == api.ProblemCodeOverloaded && p.Retryable, string(a.body)
	})
	// P11: all else works on.
	decode[api.SagaList](t, s.do("GET", "/v1/sagas", ""), stdhttp.StatusOK)
}

func TestAStoppedCoordinatorSaysSo(t *testing.T) {
	t.Parallel()
	s := newService(t)
	s.stop()
	p := decode[api.Problem](t, s.do("POST", "/v1/orders", oneBook, "Idempotency-Key", "key-1"), stdhttp.StatusServiceUnavailable)
	if p.Code != api.ProblemCodeStopping || !p.Retryable {
		t.Errorf("problem is %+v", p)
	}
}

// Postgres away is a 503 that may be repeated, on every path that needs it; and
// once it is back the same key starts the order.
func TestWithoutTheDatabaseRequestsMayBeRepeated(t *testing.T) {
	t.Parallel()
	cluster := testkit.Cluster(t)
	url := cluster.URL("postgres")
	if err := migrations.Up(t.Context(), url); err != nil {
		t.Fatal(err)
	}
	s := newService(t, func(o *options) { o.pool = testkit.Pool(t, url) })
	id := s.place().Id.String()
	cluster.Kill()

	requests := [][3]string{
		{"POST", "/v1/orders", oneBook},
		{"POST", "/v1/sagas", `{"definition": "order", "input": {"items": []}}`},
		{"GET", "/v1/orders", ""},
		{"GET", "/v1/sagas", ""},
		{"GET", "/v1/orders/" + id, ""},
		{"GET", "/v1/sagas/" + id, ""},
		{"GET", "/v1/sagas/" + id + "/history", ""},
		{"POST", "/v1/orders/" + id + "/cancel", ""},
		{"POST", "/v1/sagas/" + id + "/cancel", ""},
	}
	for range 2 { // with connections that were open, and with none
		for _, r := range requests {
			a := s.do(r[0], r[1], r[2], "Idempotency-Key", "key-1")
			p := decode[api.Problem](t, a, stdhttp.StatusServiceUnavailable)
			if p.Code != api.ProblemCodeDatabaseUnavailable || !p.Retryable {
				t.Errorf("%s %s: %s", r[0], r[1], a.body)
			}
		}
	}
	decode[api.Liveness](t, s.do("GET", "/livez", ""), stdhttp.StatusOK)

	if err := cluster.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	o := decode[api.Order](t, s.do("POST", "/v1/orders", oneBook, "Idempotency-Key", "key-1"), stdhttp.StatusAccepted)
	again := s.do("POST", "/v1/orders", oneBook, "Idempotency-Key", "key-1")
	if decode[api.Order](t, again, stdhttp.StatusAccepted).Id != o.Id || again.header.Get("Idempotent-Replayed") != "true" {
		t.Errorf("the repetition gives %s", again.body)
	}
}

func TestAnAPIWithoutItsPartsIsRefused(t *testing.T) {
	t.Parallel()
	if _, err := http.New(http.Config{}); err == nil {
		t.Error("New made an API of nothing")
	}
}

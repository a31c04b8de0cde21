package http_test

import (
	"context"
	"encoding/json"
	"errors"
	stdhttp "net/http"
	"regexp"
	"strings"
	"testing"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"github.com/skald-saga/skald"
	"github.com/skald-saga/skald/internal/http/api"
	"github.com/skald-saga/skald/internal/telemetry"
	"github.com/skald-saga/skald/internal/wire"
)

func loadSpec(t *testing.T, text []byte) *openapi3.T {
	t.Helper()
	doc, err := openapi3.NewLoader().LoadFromData(text)
	if err != nil {
		t.Fatal(err)
	}
	return doc
}

// moments are when an operation is possible, if not on a saga that has just
// been started.
var moments = map[string]func(*service, uuid.UUID){
	"retrySaga": func(s *service, id uuid.UUID) {
		s.reply(id, "reserve-stock", wire.Action, wire.Retry, `{}`)
	},
	"resumeSaga":      func(s *service, id uuid.UUID) { s.verb(id, "pause", `{}`) },
	"restartSaga":     func(s *service, id uuid.UUID) { s.decline(id) },
	"resolveSagaStep": func(s *service, id uuid.UUID) { s.stick(id) },
}

// aftermaths undo what would stand in the way of the next operations.
var aftermaths = map[string]string{
	"pauseParticipant": "/v1/participants/payment/resume",
	"pauseDefinition":  "/v1/definitions/order/resume",

	"deprecateDefinition": "/v1/definitions/order/undeprecate",
}

// anyBatch is a batch operation that has not ended: its turn never comes.
func (s *service) anyBatch() (id uuid.UUID) {
	s.t.Helper()
	const q = `
		INSERT INTO batch_operation (id, action, options, ids, up_to, matched, actor, reason, status, next_at, created_at)
		SELECT gen_random_uuid(), 'pause', '{}', '{}', gen_random_uuid(), 0, 'ada', 'r', 'running', now() + interval '1 hour', now() RETURNING id`
	if err := s.pool.QueryRow(s.t.Context(), q).Scan(&id); err != nil {
		s.t.Fatal(err)
	}
	return id
}

// Every operation of openapi.yaml is served, and takes its own example.
func TestEveryOperationIsServed(t *testing.T) {
	t.Parallel()
	s := newService(t)
	for path, item := range loadSpec(t, skald.OpenAPI()).Paths.Map() {
		for method, op := range item.Operations() {
			id := s.place().Id
			if prepare := moments[op.OperationID]; prepare != nil {
				prepare(s, id)
			}
			target := strings.NewReplacer("batch-operations/{id}", "batch-operations/"+s.anyBatch().String(), "timers/{id}", "timers/"+id.String()+".deadline", "{id}", id.String(), "{code}", "internal", "{step}", "update-inventory", "participants/{name}", "participants/payment", "{name}", "order", "{version}", "1", "{letter}", s.deadMessage(id)).Replace(path)
			if op.OperationID == "putDefinition" {
				target = "/v1/definitions/trip" // of which no test needs that it stays what it is
			}
			body := ""
			if op.RequestBody != nil {
				b, err := json.Marshal(op.RequestBody.Value.Content["application/json"].Example)
				if err != nil {
					t.Fatal(err)
				}
				body = strings.ReplaceAll(string(b), "019aa1f0-5c1e-7b62-9d0a-3f6b1c2d4e00", id.String())
			}
			if a := s.do(method, target, body); a.status/100 != 2 {
				t.Errorf("%s (%s %s) gives %d: %s", op.OperationID, method, target, a.status, a.body)
			}
			if path := aftermaths[op.OperationID]; path != "" {
				s.do("POST", path, `{}`)
			}
		}
	}
}

func TestTheContractsAreServedAsTheyAre(t *testing.T) {
	t.Parallel()
	s := newService(t)
	if a := s.do("GET", "/openapi.yaml", ""); string(a.body) != string(skald.OpenAPI()) || a.header.Get("Content-Type") != "application/yaml" {
		t.Errorf("openapi.yaml is served with %d bytes as %s", len(a.body), a.header.Get("Content-Type"))
	}
	if a := s.do("GET", "/asyncapi.yaml", ""); string(a.body) != string(skald.AsyncAPI()) || len(a.body) == 0 {
		t.Errorf("asyncapi.yaml is served with %d bytes", len(a.body))
	}
	asJSON := loadSpec(t, s.do("GET", "/openapi.json", "").body)
	if got, want := len(asJSON.Paths.Map()), len(loadSpec(t, skald.OpenAPI()).Paths.Map()); got != want {
		t.Errorf("openapi.json has %d paths, want %d", got, want)
	}
	if len(asJSON.Servers) == 0 {
		t.Error("openapi.json has lost its servers")
	}
}

func TestTheIndexLeadsSomewhere(t *testing.T) {
	t.Parallel()
	s := newService(t)
	index := decode[api.Index](t, s.do("GET", "/", ""), stdhttp.StatusOK)
	for name, link := range index.Links {
		if a := s.do("GET", link, ""); a.status != stdhttp.StatusOK {
			t.Errorf("%s leads to %s, which gives %d", name, link, a.status)
		}
	}
	v := decode[api.Version](t, s.do("GET", "/version", ""), stdhttp.StatusOK)
	if v.Version != "1.2.3-test" || index.Version != v.Version || !strings.HasPrefix(v.Go, "go1.") {
		t.Errorf("version is %+v", v)
	}
}

func TestReadinessNamesWhatIsNotReady(t *testing.T) {
	t.Parallel()
	s := newService(t, func(o *options) {
		o.checks = map[string]telemetry.Check{
			"database": func(context.Context) error { return nil },
			"relay":    func(context.Context) error { return errors.New("the password is wrong") },
		}
	})
	r := decode[api.Readiness](t, s.do("GET", "/readyz", ""), stdhttp.StatusServiceUnavailable)
	if want := map[string]string{"database": "ok", "relay": "failing"}; !cmp.Equal(r.Checks, want) {
		t.Errorf("checks are %v, want %v", r.Checks, want)
	}

	s = newService(t)
	if r := decode[api.Readiness](t, s.do("GET", "/readyz", ""), stdhttp.StatusOK); r.Status != "ready" {
		t.Errorf("status is %q", r.Status)
	}
	s.health.Drain()
	decode[api.Readiness](t, s.do("GET", "/readyz", ""), stdhttp.StatusServiceUnavailable)
	decode[api.Liveness](t, s.do("GET", "/livez", ""), stdhttp.StatusOK)
}

func TestEveryProblemHasAPage(t *testing.T) {
	t.Parallel()
	s := newService(t)
	served := map[api.ProblemCode]bool{}
	for _, p := range decode[api.ProblemTypeList](t, s.do("GET", "/problems", ""), stdhttp.StatusOK).Items {
		served[p.Code] = true
		if one := decode[api.ProblemType](t, s.do("GET", p.Link, ""), stdhttp.StatusOK); one != p || p.Description == "" || p.Title == "" {
			t.Errorf("%s is %+v and in the list %+v", p.Link, one, p)
		}
		page := s.do("GET", p.Link, "", "Accept", "text/html,application/xhtml+xml,*/*;q=0.8")
		if !strings.HasPrefix(page.header.Get("Content-Type"), "text/html") || !strings.Contains(string(page.body), p.Title) {
			t.Errorf("the page of %s is %s: %s", p.Code, page.header.Get("Content-Type"), page.body)
		}
	}
	for _, word := range loadSpec(t, skald.OpenAPI()).Components.Schemas["ProblemCode"].Value.Enum {
		if code := api.ProblemCode(word.(string)); !served[code] {
			t.Errorf("openapi.yaml has %s, the server has no page for it", code)
		} else {
			delete(served, code)
		}
	}
	if len(served) > 0 {
		t.Errorf("openapi.yaml does not have %v", served)
	}
	if page := s.do("GET", "/problems", "", "Accept", "text/html"); !strings.Contains(string(page.body), "/problems/internal") {
		t.Errorf("the page of all problems is %s", page.body)
	}
	decode[api.Problem](t, s.do("GET", "/problems/unheard-of", ""), stdhttp.StatusNotFound)
}

func TestRequestsAreCountedByOperationAndNotByPath(t *testing.T) {
	t.Parallel()
	s := newService(t)
	o := s.place()
	s.do("GET", "/v1/orders/"+o.Id.String(), "")
	s.do("GET", "/v1/orders/1", "")
	s.do("GET", "/no/such/path", "")
	text := string(s.do("GET", "/metrics", "").body)
	for _, want := range []string{
		`http_request_duration_seconds_count{class="2xx",operation="startOrder"} 1`,
		`http_request_duration_seconds_count{class="2xx",operation="getOrder"} 1`,
		`http_request_duration_seconds_count{class="4xx",operation="getOrder"} 1`,
		`http_request_duration_seconds_count{class="4xx",operation="none"} 1`,
	} {
		if !strings.Contains(text, want) {
			t.Errorf("metrics do not have %s:\n%s", want, text)
		}
	}
}

func TestRequestIDsOfClientsAreKeptIfTheyAreUsable(t *testing.T) {
	t.Parallel()
	s := newService(t)
	made := regexp.MustCompile(`^[0-9a-f-]{36}$`)
	for given, kept := range map[string]bool{
		"abc-123": true, strings.Repeat("x", 128): true, `a"b<c>`: true,
		"": false, "a b": false, "schlüssel": false, strings.Repeat("x", 129): false,
	} {
		got := s.do("GET", "/livez", "", "X-Request-Id", given).header.Get("X-Request-Id")
		if kept != (got == given) || (!kept && !made.MatchString(got)) {
			t.Errorf("%q gives %q", given, got)
		}
	}
}

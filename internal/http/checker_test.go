package http_test

import (
	"bytes"
	"encoding/json"
	"io"
	stdhttp "net/http"
	"strings"
	"testing"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/getkin/kin-openapi/openapi3filter"
	"github.com/getkin/kin-openapi/routers"
	"github.com/getkin/kin-openapi/routers/gorillamux"

	"github.com/skald-saga/skald"
	"github.com/skald-saga/skald/internal/http/api"
)

func init() {
	openapi3filter.RegisterBodyDecoder("text/html", openapi3filter.PlainBodyDecoder)
}

// checker is a transport that fails the test if an answer is not as
// openapi.yaml says, or lacks what every answer has.
type checker struct {
	t      *testing.T
	router routers.Router
	next   *stdhttp.Transport
}

func newChecker(t *testing.T) *checker {
	t.Helper()
	doc, err := openapi3.NewLoader().LoadFromData(skald.OpenAPI())
	if err != nil {
		t.Fatal(err)
	}
	if err := doc.Validate(t.Context()); err != nil {
		t.Fatalf("openapi.yaml: %v", err)
	}
	// Clients must expect new members in answers; this one knows them all.
	for _, ref := range doc.Components.Schemas {
		s := ref.Value
		if s.Type.Is(openapi3.TypeObject) && s.AdditionalProperties.Has == nil && s.AdditionalProperties.Schema == nil {
			no := false
			s.AdditionalProperties.Has = &no
		}
	}
	doc.Servers = nil
	router, err := gorillamux.NewRouter(doc)
	if err != nil {
		t.Fatal(err)
	}
	return &checker{t: t, router: router, next: stdhttp.DefaultTransport.(*stdhttp.Transport).Clone()}
}

func (c *checker) CloseIdleConnections() { c.next.CloseIdleConnections() }

func (c *checker) RoundTrip(req *stdhttp.Request) (*stdhttp.Response, error) {
	resp, err := c.next.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	body, err := io.ReadAll(resp.Body)
	_ = resp.Body.Close()
	if err != nil {
		return nil, err
	}
	resp.Body = io.NopCloser(bytes.NewReader(body))
	c.check(req, resp, body)
	return resp, nil
}

func (c *checker) check(req *stdhttp.Request, resp *stdhttp.Response, body []byte) {
	what := req.Method + " " + req.URL.RequestURI()
	if len(what) > 200 {
		what = what[:200]
	}
	for _, name := range []string{"X-Request-Id", "X-Content-Type-Options", "Cache-Control"} {
		if resp.Header.Get(name) == "" {
			c.t.Errorf("%s: the answer has no %s", what, name)
		}
	}
	if req.Method != stdhttp.MethodHead && resp.StatusCode >= 400 && !strings.HasPrefix(req.URL.Path, "/readyz") {
		c.checkProblem(what, resp, body)
	}
	route, params, err := c.router.FindRoute(req)
	if err != nil {
		return // a path or method that openapi.yaml does not have
	}
	if err := openapi3filter.ValidateResponse(req.Context(), &openapi3filter.ResponseValidationInput{
		RequestValidationInput: &openapi3filter.RequestValidationInput{Request: req, PathParams: params, Route: route},
		Status:                 resp.StatusCode, Header: resp.Header, Body: io.NopCloser(bytes.NewReader(body)),
		Options: &openapi3filter.Options{IncludeResponseStatus: true, MultiError: true},
	}); err != nil {
		c.t.Errorf("%s: the answer is not as openapi.yaml says: %v\n%s", what, err, body)
	}
}

// checkProblem checks what every problem has, on paths of ours or not.
func (c *checker) checkProblem(what string, resp *stdhttp.Response, body []byte) {
	var p api.Problem
	switch err := json.Unmarshal(body, &p); {
	case err != nil, resp.Header.Get("Content-Type") != "application/problem+json":
		c.t.Errorf("%s: %d without a problem document: %s: %s", what, resp.StatusCode, resp.Header.Get("Content-Type"), body)
	case int(p.Status) != resp.StatusCode, p.Type != "/problems/"+string(p.Code), p.Title == "", !p.Code.Valid(), p.RequestId != resp.Header.Get("X-Request-Id"):
		c.t.Errorf("%s: %d with a problem that does not fit: %s", what, resp.StatusCode, body)
	case p.Status == stdhttp.StatusServiceUnavailable && (resp.Header.Get("Retry-After") == "" || !p.Retryable):
		c.t.Errorf("%s: 503 without Retry-After or not retryable: %s", what, body)
	}
}

package http_test

import (
	"fmt"
	stdhttp "net/http"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/skald-saga/skald/internal/http/api"
	"github.com/skald-saga/skald/internal/testkit"
)

func (s *service) batch(id uuid.UUID) api.BatchOperation {
	s.t.Helper()
	return decode[api.BatchOperation](s.t, s.do("GET", "/v1/batch-operations/"+id.String(), ""), stdhttp.StatusOK)
}

func TestADryRunWritesNothing(t *testing.T) {
	t.Parallel()
	s := newService(t)
	id := s.place().Id
	before := s.rows()
	d := decode[api.BatchDryRun](t, s.do("POST", "/v1/batch-operations", `{"action": "abandon", "filter": {"definition": "order"}, "reason": "r", "dry_run": true}`), stdhttp.StatusOK)
	if d.Matched != 1 || len(d.Sample) != 1 || d.Sample[0] != id || d.Action != "abandon" {
		t.Errorf("it would be about %+v", d)
	}
	l := decode[api.BatchOperationList](t, s.do("GET", "/v1/batch-operations", ""), stdhttp.StatusOK)
	if n := s.rows(); n != before || len(l.Items) != 0 {
		t.Errorf("%d rows and %d batch operations were written", n-before, len(l.Items))
	}
}

func TestABatchOperationShowsItsProgress(t *testing.T) {
	t.Parallel()
	s := newService(t)
	id, done := s.place().Id, s.place().Id
	s.confirm(done)
	const body = `{"action": "pause", "filter": {"definition": "order", "status": ["running", "completed"]}, "reason": "audit"}`
	a := s.do("POST", "/v1/batch-operations", body, "Idempotency-Key", "k-1")
	b := decode[api.BatchOperation](t, a, stdhttp.StatusAccepted)
	if a.header.Get("Location") != b.Links.Self || b.Matched != 2 || *b.Filter.Definition != "order" || b.Reason != "audit" {
		t.Errorf("accepted: %+v", b)
	}
	again := s.do("POST", "/v1/batch-operations", body, "Idempotency-Key", "k-1")
	if v := decode[api.BatchOperation](t, again, stdhttp.StatusAccepted); v.Id != b.Id || again.header.Get("Idempotent-Replayed") != "true" {
		t.Errorf("again: %+v", v)
	}
	testkit.Eventually(t, "it is completed", 30*time.Second, func() (bool, string) {
		b = s.batch(b.Id)
		return b.Status == "completed", fmt.Sprintf("%+v", b)
	})
	if b.Done != 2 || b.Outcomes["applied"] != 1 || b.Outcomes["refused"] != 1 || b.EndedAt == nil || !s.saga(id).Paused {
		t.Errorf("completed: %+v", b)
	}
	path, seen := b.Links.Items+"?limit=1", map[uuid.UUID]string{}
	for path != "" {
		a := s.do("GET", path, "")
		l := decode[api.BatchItemList](t, a, stdhttp.StatusOK)
		for _, i := range l.Items {
			seen[i.SagaId] = string(i.Outcome)
		}
		if path = ""; l.HasMore {
			path = a.next(t)
		}
	}
	if len(seen) != 2 || seen[id] != "applied" || seen[done] != "refused" {
		t.Errorf("the items are %v", seen)
	}
	l := decode[api.BatchItemList](t, s.do("GET", b.Links.Items+"?outcome=refused", ""), stdhttp.StatusOK)
	if len(l.Items) != 1 || *l.Items[0].Code != "saga-already-terminal" {
		t.Errorf("refused are %+v", l.Items)
	}
	p := decode[api.Problem](t, s.do("POST", b.Links.Self+"/cancel", `{}`), stdhttp.StatusConflict)
	if p.Code != api.ProblemCodeBatchEnded {
		t.Errorf("cancelled after the end: %+v", p)
	}
	for _, path := range []string{"", "/items", "/cancel"} {
		method := "GET"
		if path == "/cancel" {
			method = "POST"
		}
		if a := s.do(method, "/v1/batch-operations/"+uuid.NewString()+path, ""); a.status != stdhttp.StatusNotFound {
			t.Errorf("%s of nothing gives %d", path, a.status)
		}
	}
}

func badBatches() []badInput {
	const input, bad = api.ProblemCodeInputInvalid, api.ProblemCodeBadRequest
	one := func(body string, status int, code api.ProblemCode, pointers ...string) badInput {
		return badInput{name: "batch " + body, method: "POST", path: "/v1/batch-operations", body: body, status: status, code: code, pointers: pointers}
	}
	return []badInput{
		one(`{}`, 400, bad, "#/action", "#/reason"),
		one(`{"action": "cancel", "reason": "r"}`, 422, api.ProblemCodeFilterEmpty, "#/filter"),
		one(`{"action": "cancel", "reason": "r", "filter": {}}`, 422, api.ProblemCodeFilterEmpty, "#/filter"),
		one(`{"action": "cancel", "reason": "r", "filter": {"stauts": ["stuck"]}}`, 400, bad, "#/filter/stauts"),
		one(`{"action": "cancel", "reason": "r", "filter": {"status": ["stuck"]}, "ids": ["019aa1f0-5c1e-7b62-9d0a-3f6b1c2d4e00"]}`, 422, input, "#/ids"),
		one(`{"action": "cancel", "reason": "r", "ids": []}`, 400, bad, "#/ids"),
		one(`{"action": "cancel", "reason": "r", "ids": ["1"]}`, 400, bad, "#/ids/0"),
		one(`{"action": "delete", "reason": "r", "filter": {"status": ["stuck"]}}`, 400, bad, "#/action"),
		one(`{"action": "cancel", "reason": "r", "filter": {"status": ["stuck"]}, "version": 1}`, 422, input, "#/version"),
		one(`{"action": "resolve", "reason": "r", "filter": {"status": ["stuck"]}}`, 422, input, "#/step", "#/phase", "#/outcome"),
		one(`{"action": "resolve", "reason": "r", "filter": {"status": ["stuck"]}, "step": "a", "phase": "action", "outcome": "failed", "result": 1}`, 422, input, "#/result"),
	}
}

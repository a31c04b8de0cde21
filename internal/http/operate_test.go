package http_test

import (
	stdhttp "net/http"
	"slices"
	"strings"
	"testing"

	"github.com/google/uuid"

	"github.com/skald-saga/skald/internal/http/api"
	"github.com/skald-saga/skald/internal/wire"
)

// stick lets an order get stuck at its pivot, the hand-over of the goods.
func (s *service) stick(id uuid.UUID) api.Saga {
	s.t.Helper()
	s.reply(id, "reserve-stock", wire.Action, wire.Succeeded, `{"id": "r-1"}`)
	s.reply(id, "charge-customer", wire.Action, wire.Succeeded, `null`)
	for range 20 {
		s.reply(id, "update-inventory", wire.Action, wire.Retry, `{}`)
		v := s.saga(id)
		if v.Status == api.SagaStatusStuck {
			return v
		}
		s.verb(id, "retry", ``)
	}
	s.t.Fatal("the order does not get stuck")
	return api.Saga{}
}

func (s *service) saga(id uuid.UUID) api.Saga {
	s.t.Helper()
	return decode[api.Saga](s.t, s.do("GET", "/v1/sagas/"+id.String(), ""), stdhttp.StatusOK)
}

// verb asks for something that must be accepted.
func (s *service) verb(id uuid.UUID, action, body string, headers ...string) api.Saga {
	s.t.Helper()
	a := s.do("POST", "/v1/sagas/"+id.String()+"/"+action, body, headers...)
	v := decode[api.Saga](s.t, a, stdhttp.StatusAccepted)
	if a.header.Get("ETag") == "" || a.header.Get("Location") != "/v1/sagas/"+id.String() {
		s.t.Errorf("%s answers with %v", action, a.header)
	}
	return v
}

// refused asks for something that the saga's state does not allow.
func (s *service) refused(id uuid.UUID, action, body string, code api.ProblemCode, allowed ...string) api.Problem {
	s.t.Helper()
	before := s.saga(id)
	p := decode[api.Problem](s.t, s.do("POST", "/v1/sagas/"+id.String()+"/"+action, body), stdhttp.StatusConflict)
	if p.Code != code || p.Allowed == nil || !slices.Equal(*p.Allowed, allowed) {
		s.t.Errorf("%s gives %s and allows %v, want %s and %v", action, p.Code, p.Allowed, code, allowed)
	}
	after := s.saga(id)
	if after.Version != before.Version || !slices.Equal(after.Actions, allowed) {
		s.t.Errorf("after %s was refused: version %d, was %d; actions %v", action, after.Version, before.Version, after.Actions)
	}
	return p
}

// said is the entry of a saga's history that an operator's request has made.
func (s *service) said(id uuid.UUID, kind string) api.HistoryEvent {
	s.t.Helper()
	h := decode[api.History](s.t, s.do("GET", "/v1/sagas/"+id.String()+"/history?limit=200", ""), stdhttp.StatusOK)
	for _, e := range h.Items {
		if e.Type == kind {
			return e
		}
	}
	s.t.Fatalf("history has no %s", kind)
	return api.HistoryEvent{}
}

func (s *service) wantSaid(id uuid.UUID, kind, reason string) {
	s.t.Helper()
	if e := s.said(id, kind); e.Reason == nil || *e.Reason != reason || e.Actor == nil || *e.Actor == "" {
		s.t.Errorf("history has %+v, want the reason %q and who gave it", e, reason)
	}
}

func TestRetrySendsTheNextAttemptAtOnce(t *testing.T) {
	t.Parallel()
	s := newService(t)
	id := s.place().Id
	s.refused(id, "retry", `{}`, api.ProblemCodeNothingToRetry, "cancel", "pause", "abandon")
	s.reply(id, "reserve-stock", wire.Action, wire.Retry, `{}`)
	s.refused(id, "retry", `{"step": "reserve-stock", "payload": null}`, api.ProblemCodePayloadAlreadySent, "cancel", "retry", "pause", "abandon")
	v := s.verb(id, "retry", `{"reason": "the warehouse is back", "step": "reserve-stock"}`)
	if st := v.Steps[0]; st.Attempt != 2 || st.Status != api.StepStatusRunning {
		t.Errorf("the step is %+v", st)
	}
	s.wantSaid(id, "retry-requested", "the warehouse is back")
	if a := s.do("POST", "/v1/sagas/"+id.String()+"/retry", `{"step": "nobody"}`); a.status != stdhttp.StatusNotFound {
		t.Errorf("an unknown step gives %d", a.status)
	}
}

func TestResolveTakesAnOperatorsWord(t *testing.T) {
	t.Parallel()
	s := newService(t)
	id := s.place().Id
	s.refused(id, "steps/update-inventory/resolve", `{"phase": "action", "outcome": "skipped", "reason": "r"}`, api.ProblemCodeStepNotStuck, "cancel", "pause", "abandon")
	v := s.stick(id)
	st := v.Steps[2]
	if st.StuckPhase == nil || *st.StuckPhase != "action" || st.Resolutions == nil || !slices.Equal(*st.Resolutions, []string{"succeeded", "failed", "skipped"}) {
		t.Errorf("the stuck step is %+v", st)
	}
	s.refused(id, "steps/update-inventory/resolve", `{"phase": "compensation", "outcome": "skipped", "reason": "r"}`, api.ProblemCodeStepNotStuck, v.Actions...)
	body := `{"phase": "action", "outcome": "succeeded", "result": {"by": "hand"}, "reason": "the goods are gone"}`
	for range 2 { // the same word again changes nothing
		if v = s.verb(id, "steps/update-inventory/resolve", body); v.Status != api.SagaStatusCompleted || string(v.Steps[2].Result) != `{"by":"hand"}` {
			t.Errorf("resolved: %s with %s", v.Status, v.Steps[2].Result)
		}
	}
	s.wantSaid(id, "step-resolved", "the goods are gone")
	s.refused(id, "steps/update-inventory/resolve", `{"phase": "action", "outcome": "skipped", "reason": "r"}`, api.ProblemCodeSagaAlreadyTerminal)

	// The participant denies it: the saga has not ended after all.
	s.reply(id, "update-inventory", wire.Action, wire.Failed, "no")
	v = s.saga(id)
	if v.Status != api.SagaStatusStuck || v.EndedAt != nil || v.Steps[2].Error == nil || v.Steps[2].Error.Code != "contradicted" {
		t.Errorf("contradicted: %s, ended %v, %+v", v.Status, v.EndedAt, v.Steps[2])
	}
	if o := decode[api.Order](t, s.do("GET", "/v1/orders/"+id.String(), ""), stdhttp.StatusOK); o.Status != api.OrderStatusNeedsAttention {
		t.Errorf("the order is %s", o.Status)
	}
}

func TestAStepCanEndOnlyAsItCouldHave(t *testing.T) {
	t.Parallel()
	s := newService(t)
	id := s.place().Id
	s.reply(id, "reserve-stock", wire.Action, wire.Succeeded, `{"id": "r-1"}`)
	s.reply(id, "charge-customer", wire.Action, wire.Failed, "card-declined")
	v := s.saga(id)
	for range 30 {
		s.reply(id, "reserve-stock", wire.Compensation, wire.Retry, `{}`)
		if v = s.saga(id); v.Status == api.SagaStatusStuck {
			break
		}
		s.verb(id, "retry", ``)
	}
	if v.Errors == nil || len(*v.Errors) != 2 || (*v.Errors)[0].Phase != "compensation" || (*v.Errors)[1].Code != "card-declined" || (*v.Errors)[1].Phase != "action" {
		t.Errorf("errors of a stuck saga: %+v", v.Errors)
	}
	p := s.refused(id, "steps/reserve-stock/resolve", `{"phase": "compensation", "outcome": "failed", "reason": "r"}`, api.ProblemCodeOutcomeNotPossible, v.Actions...)
	if p.Detail == nil || !strings.Contains(*p.Detail, "succeeded or skipped") {
		t.Errorf("the detail is %v", p.Detail)
	}
	if v = s.verb(id, "steps/reserve-stock/resolve", `{"phase": "compensation", "outcome": "skipped", "reason": "let it be"}`); v.Status != api.SagaStatusAbandoned {
		t.Errorf("a saga that is not undone is %s", v.Status)
	}
}

func TestAbandonEndsASaga(t *testing.T) {
	t.Parallel()
	s := newService(t)
	id := s.place().Id
	for range 2 {
		v := s.verb(id, "abandon", `{"reason": "test data"}`)
		if v.Status != api.SagaStatusAbandoned || v.EndedAt == nil || v.Version != 2 || !slices.Equal(v.Actions, []string{"restart"}) {
			t.Errorf("abandoned: %+v", v)
		}
	}
	s.wantSaid(id, "abandoned", "test data")
	if o := decode[api.Order](t, s.do("GET", "/v1/orders/"+id.String(), ""), stdhttp.StatusOK); o.Status != api.OrderStatusNeedsAttention {
		t.Errorf("the order is %s", o.Status)
	}
	done := s.place().Id
	s.confirm(done)
	s.refused(done, "abandon", `{"reason": "r"}`, api.ProblemCodeSagaAlreadyTerminal)
}

func TestPauseHoldsASagaUntilResume(t *testing.T) {
	t.Parallel()
	s := newService(t)
	id := s.place().Id
	for range 2 { // pausing a paused saga changes nothing
		if v := s.verb(id, "pause", `{"reason": "stocktaking"}`); !v.Paused || v.PausedAt == nil || v.Version != 2 || v.Status != api.SagaStatusRunning {
			t.Errorf("paused: %+v", v)
		}
	}
	s.refused(id, "retry", ``, api.ProblemCodeSagaPaused, "cancel", "resume", "abandon")
	s.reply(id, "reserve-stock", wire.Action, wire.Succeeded, `{"id": "r-1"}`)
	if v := s.saga(id); v.Steps[0].Status != api.StepStatusSucceeded || v.Steps[1].Status != api.StepStatusPending {
		t.Errorf("after a reply: %+v", v.Steps)
	}
	for range 2 {
		if v := s.verb(id, "resume", `{"reason": "counted"}`); v.Paused || v.PausedAt != nil || v.Version != 4 || v.Steps[1].Status != api.StepStatusRunning {
			t.Errorf("resumed: %+v", v)
		}
	}
	s.wantSaid(id, "paused", "stocktaking")
	s.wantSaid(id, "resumed", "counted")
}

func TestARestartLinksToWhatItTakesUp(t *testing.T) {
	t.Parallel()
	s := newService(t)
	id := s.place().Id
	path := "/v1/sagas/" + id.String()
	s.refused(id, "restart", ``, api.ProblemCodeSagaNotUndone, "cancel", "pause", "abandon")
	s.decline(id)
	if p := decode[api.Problem](t, s.do("POST", path+"/restart", `{"version": 9}`), stdhttp.StatusUnprocessableEntity); p.Code != api.ProblemCodeUnknownDefinition || (*p.Errors)[0].Pointer != "#/version" {
		t.Errorf("another version gives %+v", p)
	}
	a := s.do("POST", path+"/restart", `{"reason": "the card works again"}`, "If-Match", `"4"`)
	again := decode[api.Saga](t, a, stdhttp.StatusAccepted)
	if a.header.Get("Location") != "/v1/sagas/"+again.Id.String() || a.header.Get("Idempotent-Replayed") != "" || again.Id == id || again.Links.RestartOf == nil || *again.Links.RestartOf != path {
		t.Errorf("restarted: %+v with %v", again, a.header)
	}
	s.wantSaid(again.Id, "started", "the card works again")
	if e := s.said(again.Id, "started"); e.RestartOf == nil || *e.RestartOf != id.String() {
		t.Errorf("history begins with %+v", e)
	}
	old := s.saga(id)
	if old.Links.RestartedAs == nil || *old.Links.RestartedAs != "/v1/sagas/"+again.Id.String() || len(old.Actions) != 0 {
		t.Errorf("the old saga links to %v and allows %v", old.Links, old.Actions)
	}
	// The order is there twice: cancelled, and on its way.
	list := decode[api.OrderList](t, s.do("GET", "/v1/orders?customer_id=c-42", ""), stdhttp.StatusOK)
	if len(list.Items) != 2 || list.Items[0].Status != api.OrderStatusPending || list.Items[1].Status != api.OrderStatusCancelled || list.Items[0].Total != "25.00" {
		t.Errorf("orders: %+v", list.Items)
	}
	s.confirm(again.Id)
	a = s.do("POST", path+"/restart", `{}`)
	if v := decode[api.Saga](t, a, stdhttp.StatusOK); v.Id != again.Id || a.header.Get("Idempotent-Replayed") != "true" {
		t.Errorf("the repetition gives %s with %v", v.Id, a.header)
	}
}

// Every verb acts on the version that the operator has seen, or not at all.
func TestIfMatchGuardsEveryVerb(t *testing.T) {
	t.Parallel()
	s := newService(t)
	id := s.place().Id
	for action, body := range map[string]string{
		"cancel": `{}`, "retry": `{}`, "pause": ``, "resume": `{}`, "restart": `{}`, "abandon": `{"reason": "r"}`, "steps/update-inventory/resolve": `{"phase": "action", "outcome": "skipped", "reason": "r"}`,
	} {
		if p := decode[api.Problem](t, s.do("POST", "/v1/sagas/"+id.String()+"/"+action, body, "If-Match", `"7"`), stdhttp.StatusPreconditionFailed); p.Code != api.ProblemCodePreconditionFailed {
			t.Errorf("%s: %+v", action, p)
		}
		if a := s.do("POST", "/v1/sagas/"+uuid.NewString()+"/"+action, body); a.status != stdhttp.StatusNotFound {
			t.Errorf("%s of no saga gives %d", action, a.status)
		}
	}
	if v := s.saga(id); v.Version != 1 {
		t.Errorf("the saga is at version %d", v.Version)
	}
	if v := s.verb(id, "abandon", `{"reason": "r"}`, "If-Match", `"1"`); v.Status != api.SagaStatusAbandoned {
		t.Errorf("the saga is %s", v.Status)
	}
}

func badVerbs(id string) []badInput {
	saga := "/v1/sagas/" + id
	long := strings.Repeat("x", 501)
	resolve := saga + "/steps/update-inventory/resolve"
	bad := api.ProblemCodeBadRequest
	all := []badInput{
		{name: "abandon without a body", path: saga + "/abandon", status: 400, code: bad, pointers: []string{"#"}},
		{name: "abandon without a reason", path: saga + "/abandon", body: `{}`, status: 400, code: bad, pointers: []string{"#/reason"}},
		{name: "abandon with an empty reason", path: saga + "/abandon", body: `{"reason": ""}`, status: 400, code: bad, pointers: []string{"#/reason"}},
		{name: "abandon for too long a reason", path: saga + "/abandon", body: `{"reason": "` + long + `"}`, status: 400, code: bad, pointers: []string{"#/reason"}},
		{name: "retry of a name that is none", path: saga + "/retry", body: `{"step": "` + secret + `!"}`, status: 400, code: bad, pointers: []string{"#/step"}},
		{name: "retry with an unknown member", path: saga + "/retry", body: `{"stpe": "x"}`, status: 400, code: bad, pointers: []string{"#/stpe"}},
		{name: "a payload for nobody", path: saga + "/retry", body: `{"payload": {}}`, status: 422, code: api.ProblemCodeInputInvalid, pointers: []string{"#/step"}},
		{name: "restart with version 0", path: saga + "/restart", body: `{"version": 0}`, status: 400, code: bad, pointers: []string{"#/version"}},
		{name: "resolve as nothing", path: resolve, body: `{}`, status: 400, code: bad, pointers: []string{"#/phase", "#/outcome", "#/reason"}},
		{name: "resolve as something else", path: resolve, body: `{"phase": "` + secret + `", "outcome": "unknown", "reason": "r"}`, status: 400, code: bad, pointers: []string{"#/phase", "#/outcome"}},
		{name: "a result of a failure", path: resolve, body: `{"phase": "action", "outcome": "failed", "result": 1, "reason": "r"}`, status: 422, code: api.ProblemCodeInputInvalid, pointers: []string{"#/result"}},
		{name: "a result of a compensation", path: resolve, body: `{"phase": "compensation", "outcome": "succeeded", "result": null, "reason": "r"}`, status: 422, code: api.ProblemCodeInputInvalid, pointers: []string{"#/result"}},
		{name: "a step that has no name", path: saga + "/steps/A!/resolve", body: `{"phase": "action", "outcome": "skipped", "reason": "r"}`, status: 400, code: bad, pointers: []string{"path:step"}},
	}
	for _, path := range []string{"/v1/participants/payment/pause", "/v1/participants/payment/resume", "/v1/definitions/order/pause", "/v1/definitions/order/resume"} {
		all = append(all, badInput{name: "an unknown member at " + path, path: path, body: `{"name": "x"}`, status: 400, code: bad, pointers: []string{"#/name"}})
	}
	for i := range all {
		all[i].method = "POST"
	}
	return all
}

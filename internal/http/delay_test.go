package http_test

import (
	stdhttp "net/http"
	"testing"
	"time"

	"github.com/skald-saga/skald/internal/http/api"
	"github.com/skald-saga/skald/internal/saga"
	"github.com/skald-saga/skald/internal/testkit"
)

// P2: a saga that waits for its start time says so, and history keeps the time.
func TestASagaCanBeStartedForLater(t *testing.T) {
	t.Parallel()
	s := newService(t)
	at := time.Now().Add(time.Hour).UTC().Truncate(time.Second)
	body := `{"definition": "order", "input": {}, "start_at": "` + at.Format(time.RFC3339) + `"}`
	v := decode[api.Saga](t, s.do("POST", "/v1/sagas", body), stdhttp.StatusAccepted)
	for _, v := range []api.Saga{v, s.saga(v.Id)} {
		if v.Status != api.SagaStatusRunning || v.WaitingFor == nil || *v.WaitingFor != "start" || v.StartAt == nil || !v.StartAt.Equal(at) {
			t.Fatalf("it is %+v", v)
		}
	}
	if e := s.said(v.Id, "started"); e.StartAt == nil || !e.StartAt.Equal(at) {
		t.Errorf("history says %+v", e)
	}
	if v = s.verb(v.Id, "cancel", ""); v.Status != api.SagaStatusCompensated || v.WaitingFor != nil || v.StartAt != nil {
		t.Errorf("cancelled it is %+v", v)
	}
}

// define registers one more definition.
func (s *service) define(text string) {
	s.t.Helper()
	def, err := saga.Parse([]byte(text))
	if err != nil {
		s.t.Fatal(err)
	}
	if err := s.sagas.Register(s.t.Context(), def); err != nil {
		s.t.Fatal(err)
	}
}

// P2: who waits for a lock says for whose, and all of a key can be listed.
func TestWhoHoldsALockAndWhoWaitsIsShown(t *testing.T) {
	t.Parallel()
	s := newService(t)
	s.define("name: locked\nlock: '\"customer:\" + input.id'\nsteps: [{name: a, participant: p, action: do, compensation: undo}]")
	start := func(id string) api.Saga {
		return decode[api.Saga](t, s.do("POST", "/v1/sagas", `{"definition": "locked", "input": {"id": "`+id+`"}}`), stdhttp.StatusAccepted)
	}
	first, second := start("c-1"), start("c-1")
	start("c-2")
	if l := first.Lock; l == nil || l.Key != "customer:c-1" || l.State != "held" || first.WaitingFor != nil {
		t.Errorf("the first has the lock %+v", l)
	}
	if l := second.Lock; l == nil || l.State != "waiting" || l.Holder == nil || *l.Holder != first.Id || l.Position == nil || *l.Position != 1 ||
		second.WaitingFor == nil || *second.WaitingFor != "lock" {
		t.Errorf("the second has the lock %+v", l)
	}
	list := decode[api.SagaList](t, s.do("GET", "/v1/sagas?lock=customer:c-1", ""), stdhttp.StatusOK)
	if len(list.Items) != 2 || list.Items[0].Id != second.Id || list.Items[1].Id != first.Id {
		t.Errorf("%d sagas have the key", len(list.Items))
	}
	s.verb(first.Id, "abandon", `{"reason": "lost"}`)
	testkit.Eventually(t, "the second holds the lock", 30*time.Second, func() (bool, string) {
		return s.saga(second.Id).WaitingFor == nil, ""
	})
	if e := s.said(second.Id, "started"); e.Lock == nil || *e.Lock != "customer:c-1" {
		t.Errorf("history says %+v", e)
	}
	s.said(second.Id, "lock-granted")

	p := decode[api.Problem](t, s.do("POST", "/v1/sagas", `{"definition": "locked", "input": {"id": 1}}`), stdhttp.StatusUnprocessableEntity)
	if p.Code != api.ProblemCodeInputInvalid || p.Errors == nil || (*p.Errors)[0].Pointer != "#/input" {
		t.Errorf("an input without a key is refused with %+v", p)
	}
}

package http_test

import (
	stdhttp "net/http"
	"testing"
	"time"

	"github.com/skald-saga/skald/internal/http/api"
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

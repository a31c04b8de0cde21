package http_test

import (
	"context"
	"errors"
	stdhttp "net/http"
	"testing"
	"time"

	"github.com/skald-saga/skald/internal/http"
	"github.com/skald-saga/skald/internal/http/api"
	"github.com/skald-saga/skald/internal/wire"
)

func (s *service) participants() map[string]api.Participant {
	s.t.Helper()
	byName := map[string]api.Participant{}
	for _, p := range decode[api.ParticipantList](s.t, s.do("GET", "/v1/participants", ""), stdhttp.StatusOK).Items {
		byName[p.Name] = p
	}
	return byName
}

func TestAPausedParticipantIsShownAndItsStepsAreHeld(t *testing.T) {
	t.Parallel()
	seen := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	s := newService(t, func(o *options) {
		o.lag = func(context.Context, []string) (map[string]http.Lag, error) {
			return map[string]http.Lag{"payment": {Pending: 7, InFlight: 2, LastSeen: seen}}, errors.New("of the others nothing is known")
		}
	})
	for range 2 { // asking again is no error
		p := decode[api.PauseState](t, s.do("POST", "/v1/participants/payment/pause", `{"reason": "audit"}`), stdhttp.StatusOK)
		if !p.Paused || p.Name != "payment" || *p.Reason != "audit" || p.Actor == nil || p.PausedAt == nil {
			t.Errorf("paused: %+v", p)
		}
	}
	id := s.place().Id
	s.reply(id, "reserve-stock", wire.Action, wire.Succeeded, `{"id": "r-1"}`)
	if v := s.saga(id); v.Steps[1].Status != api.StepStatusHeld || v.Status != api.SagaStatusRunning {
		t.Errorf("the saga is %s, its step %s", v.Status, v.Steps[1].Status)
	}
	all := s.participants()
	if p := all["payment"]; !p.Paused || *p.Pending != 7 || *p.InFlight != 2 || !p.LastSeen.Equal(seen) {
		t.Errorf("payment is %+v", p)
	}
	if p, there := all["inventory"]; !there || p.Paused || p.Pending != nil {
		t.Errorf("inventory is %+v", p)
	}
	for range 2 {
		if p := decode[api.PauseState](t, s.do("POST", "/v1/participants/payment/resume", ``), stdhttp.StatusOK); p.Paused {
			t.Errorf("resumed: %+v", p)
		}
	}
	if s.participants()["payment"].Paused {
		t.Error("it is paused for ever")
	}
}

func TestNobodyCanPauseWhatIsNotThere(t *testing.T) {
	t.Parallel()
	s := newService(t)
	for _, path := range []string{"/v1/participants/nobody/pause", "/v1/participants/order/resume", "/v1/definitions/payment/pause", "/v1/definitions/nothing/resume"} {
		if a := s.do("POST", path, `{}`); a.status != stdhttp.StatusNotFound {
			t.Errorf("%s gives %d", path, a.status)
		}
	}
	if p := decode[api.PauseState](t, s.do("POST", "/v1/definitions/order/pause", `{}`), stdhttp.StatusOK); !p.Paused {
		t.Errorf("paused: %+v", p)
	}
	if v := s.saga(s.place().Id); v.Steps[0].Status != api.StepStatusHeld {
		t.Errorf("the first step is %s", v.Steps[0].Status)
	}
}

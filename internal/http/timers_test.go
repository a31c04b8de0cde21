package http_test

import (
	stdhttp "net/http"
	"net/url"
	"testing"
	"time"

	"github.com/skald-saga/skald/internal/http/api"
	"github.com/skald-saga/skald/internal/testkit"
)

func (s *service) timers(query url.Values) (all []api.Timer) {
	s.t.Helper()
	for path := "/v1/timers?" + query.Encode(); path != ""; {
		page := decode[api.TimerList](s.t, s.do("GET", path, ""), stdhttp.StatusOK)
		all, path = append(all, page.Items...), ""
		if page.HasMore {
			query.Set("cursor", *page.NextCursor)
			path = "/v1/timers?" + query.Encode()
		}
	}
	return all
}

// Operators see what sagas wait for, move it and let it happen now.
func TestTimersAreListedMovedAndFired(t *testing.T) {
	t.Parallel()
	s := newService(t)
	o := s.place()
	later := decode[api.Saga](t, s.do("POST", "/v1/sagas", `{"definition": "order", "input": {"items": []}, "start_at": "`+
		time.Now().Add(time.Hour).UTC().Format(time.RFC3339)+`"}`), stdhttp.StatusAccepted)
	if all := s.timers(url.Values{"limit": {"1"}}); len(all) != 4 {
		t.Fatalf("%d timers: %+v", len(all), all)
	}
	found := s.timers(url.Values{"saga": {later.Id.String()}, "kind": {"start"}, "definition": {"order"}})
	if len(found) != 1 || found[0].SagaId != later.Id || found[0].SagaVersion != 1 || *found[0].Links.Saga != "/v1/sagas/"+later.Id.String() {
		t.Fatalf("its start is %+v", found)
	}
	timer := found[0].Links.Self

	p := decode[api.Problem](t, s.do("DELETE", timer, ""), stdhttp.StatusConflict)
	if p.Code != api.ProblemCodeTimerNeeded || p.Allowed == nil || len(*p.Allowed) != 1 {
		t.Errorf("to remove a start gives %+v", p)
	}
	decode[api.Problem](t, s.do("PATCH", timer, `{"fire_now": true}`, "If-Match", `"9"`), stdhttp.StatusPreconditionFailed)
	at := time.Now().Add(2 * time.Hour).UTC().Truncate(time.Second)
	a := s.do("PATCH", timer, `{"fire_at": "`+at.Format(time.RFC3339)+`", "reason": "stocktaking"}`, "If-Match", `"1"`)
	if moved := decode[api.Timer](t, a, stdhttp.StatusOK); !moved.FireAt.Equal(at) || a.header.Get("ETag") != `"2"` {
		t.Errorf("moved it is %+v, %s", moved, a.header.Get("ETag"))
	}
	s.wantSaid(later.Id, "start-moved", "stocktaking")
	decode[api.Timer](t, s.do("PATCH", timer, `{"fire_now": true}`), stdhttp.StatusOK)
	testkit.Eventually(t, "the saga begins", 30*time.Second, func() (bool, string) { return s.saga(later.Id).WaitingFor == nil, "" })
	decode[api.Problem](t, s.do("PATCH", timer, `{"fire_now": true}`), stdhttp.StatusNotFound)

	deadline := "/v1/timers/" + o.Id.String() + ".deadline"
	if a := s.do("DELETE", deadline+"?reason=no+hurry", ""); a.status != stdhttp.StatusNoContent || a.header.Get("ETag") != `"2"` {
		t.Errorf("to remove a deadline gives %d, %v", a.status, a.header)
	}
	s.wantSaid(o.Id, "deadline-moved", "no hurry")
	decode[api.Problem](t, s.do("DELETE", deadline, ""), stdhttp.StatusNotFound)
}

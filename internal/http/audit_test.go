package http_test

import (
	"net/url"
	"slices"
	"testing"
	"time"

	stdhttp "net/http"

	"github.com/skald-saga/skald/internal/http/api"
)

// did lists the actions in the audit log that a query selects, page by page.
func (s *service) did(query url.Values) (actions []string) {
	s.t.Helper()
	query.Set("limit", "2")
	for path := "/v1/audit-log?" + query.Encode(); path != ""; {
		a := s.do("GET", path, "")
		l := decode[api.AuditLog](s.t, a, stdhttp.StatusOK)
		for _, e := range l.Items {
			actions = append(actions, e.Action)
		}
		if path = ""; l.HasMore {
			path = a.next(s.t)
		}
	}
	return actions
}

func TestTheAuditLogSaysWhoDidWhat(t *testing.T) {
	t.Parallel()
	s := newService(t)
	id, other := s.place().Id, s.place().Id
	s.verb(id, "pause", `{"reason": "stocktaking"}`)
	s.verb(other, "pause", `{}`)
	s.verb(id, "resume", `{}`)
	s.verb(id, "abandon", `{"reason": "burnt down"}`)
	for name, c := range map[string]struct {
		query url.Values
		want  []string
	}{
		"everything":      {url.Values{}, []string{"abandon", "resume", "pause", "pause"}},
		"of one saga":     {url.Values{"saga": {id.String()}}, []string{"abandon", "resume", "pause"}},
		"one action":      {url.Values{"action": {"pause"}}, []string{"pause", "pause"}},
		"one actor":       {url.Values{"actor": {"anonymous"}}, []string{"abandon", "resume", "pause", "pause"}},
		"another actor":   {url.Values{"actor": {"nobody"}}, nil},
		"since yesterday": {url.Values{"from": {time.Now().AddDate(0, 0, -1).Format(time.RFC3339)}}, []string{"abandon", "resume", "pause", "pause"}},
		"until yesterday": {url.Values{"to": {time.Now().AddDate(0, 0, -1).Format(time.RFC3339)}}, nil},
		"from tomorrow":   {url.Values{"from": {time.Now().AddDate(0, 0, 1).Format(time.RFC3339)}}, nil},
	} {
		if got := s.did(c.query); !slices.Equal(got, c.want) {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
	}
	l := decode[api.AuditLog](t, s.do("GET", "/v1/audit-log?limit=1&action=abandon", ""), stdhttp.StatusOK)
	if e := l.Items[0]; e.Target != "saga" || e.TargetId != id.String() || e.Actor == "" || *e.Reason != "burnt down" ||
		e.Before.Version != 3 || e.After.Status != api.SagaStatusAbandoned {
		t.Errorf("the entry is %+v", e)
	}
}

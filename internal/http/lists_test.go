package http_test

import (
	"fmt"
	stdhttp "net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/google/uuid"

	"github.com/skald-saga/skald/internal/http/api"
)

// orderOf places an order of a customer.
func (s *service) orderOf(customer string) api.Order {
	s.t.Helper()
	body := strings.Replace(oneBook, "c-42", customer, 1)
	return decode[api.Order](s.t, s.do("POST", "/v1/orders", body), stdhttp.StatusAccepted)
}

// next is where a Link header leads; empty: nowhere.
func (a answer) next(t *testing.T) string {
	t.Helper()
	link := a.header.Get("Link")
	if link == "" {
		return ""
	}
	target, ok := strings.CutSuffix(strings.TrimPrefix(link, "<"), `>; rel="next"`)
	if !ok {
		t.Fatalf("Link is %q", link)
	}
	return target
}

func TestPagesHoldEveryOrderOnceWhileNewOnesComeIn(t *testing.T) {
	t.Parallel()
	s := newService(t)
	var want []uuid.UUID
	for range 7 {
		want = append(want, s.orderOf("c-1").Id)
	}
	var got []uuid.UUID
	for path := "/v1/orders?limit=2&customer_id=c-1"; path != ""; {
		a := s.do("GET", path, "")
		list := decode[api.OrderList](t, a, stdhttp.StatusOK)
		for _, o := range list.Items {
			got = append(got, o.Id)
		}
		path = a.next(t)
		if (path != "") != list.HasMore || list.HasMore != (list.NextCursor != nil) {
			t.Fatalf("Link is %q, has_more %v and next_cursor %v", path, list.HasMore, list.NextCursor)
		}
		s.orderOf("c-1")
		s.orderOf("c-2")
	}
	if len(got) != len(want) {
		t.Fatalf("%d orders on the pages, want %d", len(got), len(want))
	}
	for i, id := range got {
		if id != want[len(want)-1-i] {
			t.Errorf("order %d is %s, want %s: newest first, each once", i, id, want[len(want)-1-i])
		}
	}
}

func TestListsAreFiltered(t *testing.T) {
	t.Parallel()
	s := newService(t)
	pending, confirmed, cancelled := s.orderOf("c-1").Id, s.orderOf("c-1").Id, s.orderOf("c-2").Id
	s.confirm(confirmed)
	s.decline(cancelled)
	plain := decode[api.Saga](t, s.do("POST", "/v1/sagas", `{"definition": "order", "input": {"items": []}}`), stdhttp.StatusAccepted).Id

	for path, want := range map[string][]uuid.UUID{
		"/v1/orders":                                    {cancelled, confirmed, pending},
		"/v1/orders?status=pending":                     {pending},
		"/v1/orders?status=confirmed":                   {confirmed},
		"/v1/orders?status=cancelled":                   {cancelled},
		"/v1/orders?status=cancelled,confirmed":         {cancelled, confirmed},
		"/v1/orders?status=needs_attention":             {},
		"/v1/orders?customer_id=c-1":                    {confirmed, pending},
		"/v1/orders?customer_id=c-1&status=confirmed":   {confirmed},
		"/v1/orders?customer_id=c-3":                    {},
		"/v1/sagas":                                     {plain, cancelled, confirmed, pending},
		"/v1/sagas?status=running":                      {plain, pending},
		"/v1/sagas?status=completed,compensated":        {cancelled, confirmed},
		"/v1/sagas?definition=order&status=completed":   {confirmed},
		"/v1/sagas?definition=another":                  {},
		"/v1/sagas?status=stuck,abandoned,compensating": {},
	} {
		var got []uuid.UUID
		if strings.HasPrefix(path, "/v1/orders") {
			for _, o := range decode[api.OrderList](t, s.do("GET", path, ""), stdhttp.StatusOK).Items {
				got = append(got, o.Id)
			}
		} else {
			for _, v := range decode[api.SagaList](t, s.do("GET", path, ""), stdhttp.StatusOK).Items {
				got = append(got, v.Id)
			}
		}
		if fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("%s holds %v, want %v", path, got, want)
		}
	}
}

func TestACursorFitsOnlyTheListItCameFrom(t *testing.T) {
	t.Parallel()
	s := newService(t)
	for range 3 {
		s.orderOf("c-1")
	}
	list := decode[api.OrderList](t, s.do("GET", "/v1/orders?customer_id=c-1&status=pending,confirmed&limit=1", ""), stdhttp.StatusOK)
	cursor := "cursor=" + *list.NextCursor
	for query, code := range map[string]api.ProblemCode{
		"customer_id=c-1&status=pending,confirmed&" + cursor:         "",
		"limit=3&status=confirmed,pending&customer_id=c-1&" + cursor: "",
		"customer_id=c-2&status=pending,confirmed&" + cursor:         api.ProblemCodeCursorMismatch,
		"customer_id=c-1&" + cursor:                                  api.ProblemCodeCursorMismatch,
		cursor:                                                       api.ProblemCodeCursorMismatch,
		"cursor=garbage":                                             api.ProblemCodeBadRequest,
		"cursor=" + strings.Repeat("A", 32):                          api.ProblemCodeCursorMismatch,
		"cursor=" + strings.Repeat("A", 31):                          api.ProblemCodeBadRequest,
		"cursor=":                                                    api.ProblemCodeBadRequest,
		"cursor=%00":                                                 api.ProblemCodeBadRequest,
		cursor + "x":                                                 api.ProblemCodeBadRequest,
	} {
		a := s.do("GET", "/v1/orders?"+query, "")
		if code == "" {
			if got := decode[api.OrderList](t, a, stdhttp.StatusOK); len(got.Items) == 0 || got.Items[0].Id == list.Items[0].Id {
				t.Errorf("%s: %s", query, a.body)
			}
			continue
		}
		p := decode[api.Problem](t, a, stdhttp.StatusBadRequest)
		if p.Code != code || (*p.Errors)[0].Pointer != "query:cursor" {
			t.Errorf("%s: %s, want %s", query, a.body, code)
		}
	}
	p := decode[api.Problem](t, s.do("GET", "/v1/sagas?"+cursor, ""), stdhttp.StatusBadRequest)
	if p.Code != api.ProblemCodeCursorMismatch {
		t.Errorf("an order's cursor among sagas gives %s", p.Code)
	}
}

func TestHistoryComesInPages(t *testing.T) {
	t.Parallel()
	s := newService(t)
	o := s.place()
	s.decline(o.Id)
	whole := decode[api.History](t, s.do("GET", *o.Links.History, ""), stdhttp.StatusOK)
	var got []api.HistoryEvent
	for path := *o.Links.History + "?limit=3"; path != ""; {
		a := s.do("GET", path, "")
		page := decode[api.History](t, a, stdhttp.StatusOK)
		got = append(got, page.Items...)
		path = a.next(t)
		if page.HasMore != (page.NextAfter != nil) || page.HasMore != (path != "") {
			t.Fatalf("has_more is %v, next_after %v and Link %q", page.HasMore, page.NextAfter, path)
		}
	}
	if len(got) != len(whole.Items) || len(got) < 6 {
		t.Fatalf("the pages hold %d facts, the whole %d", len(got), len(whole.Items))
	}
	for i, e := range got {
		if int(e.Seq) != i+1 || e.Type != whole.Items[i].Type {
			t.Errorf("fact %d is %d %s, want %s", i+1, e.Seq, e.Type, whole.Items[i].Type)
		}
	}
	if after := decode[api.History](t, s.do("GET", *o.Links.History+"?after="+url.QueryEscape(fmt.Sprint(len(got))), ""), stdhttp.StatusOK); len(after.Items) != 0 || after.HasMore {
		t.Errorf("after the last fact come %+v", after.Items)
	}
}

func TestSagasAreFoundByTheirKeyTheirLabelsAndTheirInput(t *testing.T) {
	t.Parallel()
	s := newService(t)
	s.put("trip", asYAML, tripYAML+"search: [input.customer_id]\n", stdhttp.StatusCreated)
	start := func(body string) uuid.UUID {
		t.Helper()
		return decode[api.Saga](t, s.do("POST", "/v1/sagas", body), stdhttp.StatusAccepted).Id
	}
	first := start(`{"definition": "trip", "key": "trip 1", "labels": {"team": "a", "tier": "gold"}, "input": {"customer_id": "c-42"}}`)
	second := start(`{"definition": "trip", "key": "trip 1", "labels": {"team": "b"}, "input": {"customer_id": "c-42", "n": 1}}`)
	third := start(`{"definition": "trip", "input": {"customer_id": 7}}`)
	for query, want := range map[string][]uuid.UUID{
		"key=trip%201":                             {second, first},
		"key=trip%202":                             {},
		"label.team=a":                             {first},
		"label.team=a&label.tier=gold":             {first},
		"label.team=b&label.tier=gold":             {},
		"attr.customer_id=c-42":                    {second, first},
		"attr.customer_id=7":                       {third},
		"attr.customer_id=c-42&label.team=b":       {second},
		"attr.n=1":                                 {},
		"step=flight&definition=trip":              {third, second, first},
		"step=hotel":                               {},
		"definition=trip&version=1&status=running": {third, second, first},
		"definition=trip&version=2":                {},
		"error_code=declined":                      {},
		"created_from=2020-01-01T00:00:00Z&created_to=2020-01-02T00:00:00Z": {},
		"updated_from=2020-01-01T00:00:00Z&updated_to=2099-01-02T00:00:00Z": {third, second, first},
	} {
		var got []uuid.UUID
		for _, v := range decode[api.SagaList](t, s.do("GET", "/v1/sagas?"+query, ""), stdhttp.StatusOK).Items {
			got = append(got, v.Id)
		}
		if fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("%s holds %v, want %v", query, got, want)
		}
	}
	v := decode[api.Saga](t, s.do("GET", "/v1/sagas/"+first.String(), ""), stdhttp.StatusOK)
	if *v.Key != "trip 1" || (*v.Labels)["tier"] != "gold" {
		t.Errorf("it reads as %+v", v)
	}
	page := decode[api.SagaList](t, s.do("GET", "/v1/sagas?attr.customer_id=c-42&limit=1", ""), stdhttp.StatusOK)
	if rest := decode[api.SagaList](t, s.do("GET", "/v1/sagas?limit=1&attr.customer_id=c-42&cursor="+*page.NextCursor, ""), stdhttp.StatusOK); rest.Items[0].Id != first {
		t.Errorf("the second page: %+v", rest.Items)
	}
	for query, code := range map[string]api.ProblemCode{
		"attr.customer_id=c-43&cursor=" + *page.NextCursor: api.ProblemCodeCursorMismatch,
		"cursor=" + *page.NextCursor:                       api.ProblemCodeCursorMismatch,
		"label.=a":                                         api.ProblemCodeUnknownParameter,
		"labels.team=a":                                    api.ProblemCodeUnknownParameter,
		"attr.a%20b=1":                                     api.ProblemCodeUnknownParameter,
		"attr.customer_id=":                                api.ProblemCodeBadRequest,
		"attr.customer_id=1&attr.customer_id=2":            api.ProblemCodeBadRequest,
		"attr.customer_id=" + strings.Repeat("x", 201):     api.ProblemCodeBadRequest,
		"label.a=1&label.b=1&label.c=1&label.d=1&label.e=1&label.f=1&label.g=1&label.h=1&label.i=1": api.ProblemCodeBadRequest,
		"key=":                     api.ProblemCodeBadRequest,
		"created_from=yesterday":   api.ProblemCodeBadRequest,
		"version=0":                api.ProblemCodeBadRequest,
		"step=Reserve":             api.ProblemCodeBadRequest,
		"error_code=":              api.ProblemCodeBadRequest,
		"label.team=%00":           api.ProblemCodeBadRequest,
		"updated_to=2026-13-01T0Z": api.ProblemCodeBadRequest,
	} {
		if p := decode[api.Problem](t, s.do("GET", "/v1/sagas?"+query, ""), stdhttp.StatusBadRequest); p.Code != code {
			t.Errorf("%s: %s, want %s", query, p.Code, code)
		}
	}
	for body, status := range map[string]int{
		`{"definition": "trip", "key": "", "input": {}}`:                                 stdhttp.StatusBadRequest,
		`{"definition": "trip", "key": 1, "input": {}}`:                                  stdhttp.StatusBadRequest,
		`{"definition": "trip", "labels": {"a": 1}, "input": {}}`:                        stdhttp.StatusBadRequest,
		`{"definition": "trip", "labels": {"a": ""}, "input": {}}`:                       stdhttp.StatusBadRequest,
		`{"definition": "trip", "labels": {"a b": "1"}, "input": {}}`:                    stdhttp.StatusUnprocessableEntity,
		`{"definition": "trip", "labels": {"": "1"}, "input": {}}`:                       stdhttp.StatusUnprocessableEntity,
		`{"definition": "trip", "key": "` + strings.Repeat("k", 201) + `", "input": {}}`: stdhttp.StatusBadRequest,
	} {
		if a := s.do("POST", "/v1/sagas", body); a.status != status {
			t.Errorf("%s: %d %s", body, a.status, a.body)
		}
	}
}

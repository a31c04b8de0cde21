package http_test

import (
	"fmt"
	stdhttp "net/http"
	"slices"
	"testing"

	"github.com/google/uuid"

	"github.com/skald-saga/skald/internal/http/api"
	"github.com/skald-saga/skald/internal/wire"
)

func TestWhatTheClientKnowsIsNotSentAgain(t *testing.T) {
	t.Parallel()
	s := newService(t)
	o := s.place()
	for _, path := range []string{"/v1/orders/" + o.Id.String(), "/v1/sagas/" + o.Id.String()} {
		for known, status := range map[string]int{
			`"1"`:             stdhttp.StatusNotModified,
			`W/"1"`:           stdhttp.StatusNotModified,
			`"7", "1"`:        stdhttp.StatusNotModified,
			`*`:               stdhttp.StatusNotModified,
			`"2"`:             stdhttp.StatusOK,
			`"something", ""`: stdhttp.StatusOK,
			`1`:               stdhttp.StatusBadRequest,
			`"1`:              stdhttp.StatusBadRequest,
			`"1" "2"`:         stdhttp.StatusBadRequest,
			`,`:               stdhttp.StatusBadRequest,
		} {
			a := s.do("GET", path, "", "If-None-Match", known)
			if a.status != status {
				t.Errorf("%s with If-None-Match: %s gives %d, want %d", path, known, a.status, status)
			}
			if status == stdhttp.StatusNotModified && (len(a.body) > 0 || a.header.Get("ETag") != `"1"`) {
				t.Errorf("304 has the tag %s and the body %q", a.header.Get("ETag"), a.body)
			}
		}
	}
}

// A long poll: the answer comes with the next version, not with the end.
func TestAWaitForAnotherVersionEndsWithTheNextChange(t *testing.T) {
	t.Parallel()
	s := newService(t)
	o := s.place()
	path := "/v1/sagas/" + o.Id.String()
	if a := s.do("GET", path, "", "If-None-Match", `"1"`, "Prefer", "wait=1"); a.status != stdhttp.StatusNotModified || a.header.Get("Preference-Applied") != "wait=1" {
		t.Errorf("without a change: %d with %v, want 304", a.status, a.header)
	}
	done := make(chan answer, 1)
	go func() {
		a, err := s.try(t.Context(), "GET", path, "", "If-None-Match", `"1"`, "Prefer", "wait=60")
		if err != nil {
			t.Error(err)
		}
		done <- a
	}()
	s.reply(o.Id, "reserve-stock", wire.Action, wire.Succeeded, `{"id": "r-1"}`)
	if v := decode[api.Saga](t, <-done, stdhttp.StatusOK); v.Version != 2 || v.Status != api.SagaStatusRunning {
		t.Errorf("the wait ended at version %d, %s", v.Version, v.Status)
	}
	s.confirm(o.Id)
	ended := decode[api.Saga](t, s.do("GET", path, "", "Prefer", "wait=60"), stdhttp.StatusOK)
	if a := s.do("GET", path, "", "Prefer", "wait=60", "If-None-Match", fmt.Sprintf("%q", fmt.Sprint(ended.Version))); a.status != stdhttp.StatusNotModified {
		t.Errorf("waiting for a saga that has ended to change gives %d", a.status)
	}
}

func TestPreferIsReadAsTheRFCHasIt(t *testing.T) {
	t.Parallel()
	s := newService(t)
	o := s.place()
	s.confirm(o.Id)
	for prefer, applied := range map[string]string{
		"wait=5":                              "wait=5",
		"WAIT=5":                              "wait=5",
		`wait="5"`:                            "wait=5",
		"respond-async, wait=5;foo=bar":       "wait=5",
		"wait=7, wait=3":                      "wait=7",
		"wait=61":                             "wait=60",
		"wait=0":                              "wait=0",
		"return=minimal":                      "",
		`thing="a, wait=3", handling=lenient`: "",
		"wait=":                               "bad",
		"wait":                                "bad",
		"wait=abc":                            "bad",
		"wait=-1":                             "bad",
		"wait=1.5":                            "bad",
		"wait=99999999999999999999":           "bad",
	} {
		a := s.do("GET", "/v1/orders/"+o.Id.String(), "", "Prefer", prefer)
		if applied != "bad" {
			if a.status != stdhttp.StatusOK || a.header.Get("Preference-Applied") != applied {
				t.Errorf("Prefer: %s gives %d with %q, want %q", prefer, a.status, a.header.Get("Preference-Applied"), applied)
			}
			continue
		}
		if p := decode[api.Problem](t, a, stdhttp.StatusBadRequest); (*p.Errors)[0].Pointer != "header:Prefer" {
			t.Errorf("Prefer: %s: %s", prefer, a.body)
		}
	}
	two := s.do("GET", "/v1/orders/"+o.Id.String(), "", "Prefer", "respond-async", "Prefer", "wait=4")
	if two.header.Get("Preference-Applied") != "wait=4" {
		t.Errorf("a preference in a second line is not applied: %v", two.header)
	}
}

func TestCancellingUndoesAnOrderOnce(t *testing.T) {
	t.Parallel()
	s := newService(t)
	o := s.place()
	path := "/v1/orders/" + o.Id.String()
	a := s.do("POST", path+"/cancel", `{"reason": "changed my mind"}`)
	if a.header.Get("Location") != path || a.header.Get("ETag") != `"2"` {
		t.Errorf("headers are %v", a.header)
	}
	first := decode[api.Order](t, a, stdhttp.StatusAccepted)
	for _, body := range []string{"", `{}`, `{"reason": "again"}`} {
		if again := decode[api.Order](t, s.do("POST", path+"/cancel", body), stdhttp.StatusAccepted); again.UpdatedAt != first.UpdatedAt {
			t.Errorf("cancelling again with %q changed the order", body)
		}
	}
	s.reply(o.Id, "reserve-stock", wire.Action, wire.Succeeded, `{"id": "r-1"}`)
	s.reply(o.Id, "reserve-stock", wire.Compensation, wire.Succeeded, `null`)
	o = decode[api.Order](t, s.do("GET", path, ""), stdhttp.StatusOK)
	if o.Status != api.OrderStatusCancelled || o.Reason.Code != "cancelled" {
		t.Errorf("order is %+v, want it cancelled", o)
	}
	history := decode[api.History](t, s.do("GET", *o.Links.History, ""), stdhttp.StatusOK).Items
	asked := slices.IndexFunc(history, func(e api.HistoryEvent) bool { return e.Type == "cancel-requested" })
	if asked < 0 || history[asked].Reason == nil || *history[asked].Reason != "changed my mind" || *history[asked].Actor != "anonymous" {
		t.Errorf("history is %+v, want the request with its reason and actor", history)
	}
	if n := len(slices.DeleteFunc(history, func(e api.HistoryEvent) bool { return e.Type != "cancel-requested" })); n != 1 {
		t.Errorf("the request is in history %d times", n)
	}

	p := decode[api.Problem](t, s.do("POST", path+"/cancel", ""), stdhttp.StatusConflict)
	if p.Code != api.ProblemCodeSagaAlreadyTerminal || p.Allowed == nil || !slices.Equal(*p.Allowed, []string{"restart"}) {
		t.Errorf("cancelling a cancelled order: %+v", p)
	}
}

func TestAfterThePivotAnOrderCannotBeCancelled(t *testing.T) {
	t.Parallel()
	s := newService(t)
	o := decode[api.Order](t, s.do("POST", "/v1/orders", `{"customer_id": "c-42", "currency": "EUR", "payment_method": "pm_ok",
		"items": [{"sku": "book", "quantity": 2, "unit_price": "12.5"}], "ship_to": {"name": "Ada", "country": "GB"}}`), stdhttp.StatusAccepted)
	s.confirm(o.Id) // all but the shipping
	for _, path := range []string{"/v1/orders/", "/v1/sagas/"} {
		p := decode[api.Problem](t, s.do("POST", path+o.Id.String()+"/cancel", `{}`), stdhttp.StatusConflict)
		if p.Code != api.ProblemCodePastPivot || p.Allowed == nil {
			t.Errorf("%s: %+v", path, p)
		}
	}
}

func TestIfMatchCancelsOnlyThatVersion(t *testing.T) {
	t.Parallel()
	s := newService(t)
	path := "/v1/sagas/" + s.place().Id.String()
	for match, status := range map[string]int{
		`"2"`:                    stdhttp.StatusPreconditionFailed,
		`W/"1"`:                  stdhttp.StatusPreconditionFailed,
		`"0"`:                    stdhttp.StatusPreconditionFailed,
		`"01"`:                   stdhttp.StatusPreconditionFailed,
		`"something"`:            stdhttp.StatusPreconditionFailed,
		`"2", "3"`:               stdhttp.StatusPreconditionFailed,
		`"99999999999999999999"`: stdhttp.StatusPreconditionFailed,
		`1`:                      stdhttp.StatusBadRequest,
	} {
		a := s.do("POST", path+"/cancel", `{}`, "If-Match", match)
		if a.status != status {
			t.Errorf("If-Match: %s gives %d, want %d", match, a.status, status)
		}
		if p := decode[api.Problem](t, a, status); (*p.Errors)[0].Pointer != "header:If-Match" {
			t.Errorf("If-Match: %s: %s", match, a.body)
		}
	}
	if v := decode[api.Saga](t, s.do("GET", path, ""), stdhttp.StatusOK); v.Version != 1 || v.Status != api.SagaStatusRunning {
		t.Fatalf("the saga is %s at version %d, want it untouched", v.Status, v.Version)
	}
	if p := decode[api.Problem](t, s.do("POST", "/v1/sagas/"+uuid.NewString()+"/cancel", "", "If-Match", `"1", "2"`), stdhttp.StatusNotFound); p.Code != api.ProblemCodeNotFound {
		t.Errorf("an unknown saga: %+v", p)
	}
	for _, match := range []string{`"1"`, `"7", "2"`, `*`} {
		if a := s.do("POST", path+"/cancel", `{}`, "If-Match", match); a.status != stdhttp.StatusAccepted {
			t.Errorf("If-Match: %s gives %d: %s", match, a.status, a.body)
		}
	}
}

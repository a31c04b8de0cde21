package http_test

import (
	"context"
	"encoding/json"
	stdhttp "net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"github.com/skald-saga/skald/internal/http/api"
	"github.com/skald-saga/skald/internal/testkit"
	"github.com/skald-saga/skald/internal/wire"
)

func TestAnOrderIsAcceptedAndThenConfirmed(t *testing.T) {
	t.Parallel()
	s := newService(t)
	a := s.do("POST", "/v1/orders", `{"customer_id": "c-42", "currency": "EUR", "payment_method": "pm_ok",
		"items": [{"sku": "book", "quantity": 2, "unit_price": "12.5"}, {"sku": "lamp", "quantity": 1, "unit_price": "0"}],
		"ship_to": {"name": "Ada Lovelace", "lines": ["St James's Square 12"], "country": "GB"}}`)
	o := decode[api.Order](t, a, stdhttp.StatusAccepted)

	path := "/v1/orders/" + o.Id.String()
	want := map[string]string{"Location": path, "ETag": `"1"`, "Retry-After": "1", "Idempotent-Replayed": "", "Preference-Applied": ""}
	for name, value := range want {
		if got := a.header.Get(name); got != value {
			t.Errorf("%s is %q, want %q", name, got, value)
		}
	}
	if o.Status != api.OrderStatusPending || o.Total != "25.00" || o.Items[0].UnitPrice != "12.50" || o.SagaId != o.Id || o.Links.Cancel == nil {
		t.Errorf("accepted order is %s", a.body)
	}
	if again := decode[api.Order](t, s.do("GET", path, ""), stdhttp.StatusOK); !cmp.Equal(o, again) {
		t.Errorf("read order differs:\n%s", cmp.Diff(o, again))
	}

	var input map[string]any
	if err := json.Unmarshal(decode[api.Saga](t, s.do("GET", "/v1/sagas/"+o.Id.String(), ""), stdhttp.StatusOK).Input, &input); err != nil {
		t.Fatal(err)
	}
	wantInput := map[string]any{
		"customer_id": "c-42", "currency": "EUR", "total": "25.00", "payment_method": "pm_ok",
		"items": []any{
			map[string]any{"sku": "book", "quantity": 2.0, "unit_price": "12.50"},
			map[string]any{"sku": "lamp", "quantity": 1.0, "unit_price": "0.00"},
		},
		"ship_to": map[string]any{"name": "Ada Lovelace", "lines": []any{"St James's Square 12"}, "country": "GB"},
	}
	if !cmp.Equal(wantInput, input) {
		t.Errorf("the saga's input is not what definitions/order.yaml expects:\n%s", cmp.Diff(wantInput, input))
	}

	s.confirm(o.Id)
	if o = decode[api.Order](t, s.do("GET", path, ""), stdhttp.StatusOK); o.Status != api.OrderStatusPending {
		t.Errorf("status before shipping is %s", o.Status)
	}
	s.reply(o.Id, "ship", wire.Action, wire.Succeeded, `{"tracking": "t-1"}`)
	if o = decode[api.Order](t, s.do("GET", path, ""), stdhttp.StatusOK); o.Status != api.OrderStatusConfirmed || o.Reason != nil || o.Links.Cancel != nil {
		t.Errorf("order is %+v, want it confirmed", o)
	}
}

// The W3C has one bad trace context ignored, and a tracestate may come in parts.
func TestTheTraceOfARequestIsThatOfItsCommands(t *testing.T) {
	t.Parallel()
	const good = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	for name, c := range map[string]struct {
		headers       []string
		parent, state string
	}{
		"none":              {nil, "", ""},
		"with a state":      {[]string{"traceparent", good, "tracestate", "a=1", "tracestate", "b=2"}, good, "a=1,b=2"},
		"that says nothing": {[]string{"traceparent", "gibberish", "tracestate", "a=1"}, "", ""},
		"given twice":       {[]string{"traceparent", good, "traceparent", good}, "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newService(t)
			decode[api.Order](t, s.do("POST", "/v1/orders", oneBook, c.headers...), stdhttp.StatusAccepted)
			var parent, state string
			const q = `SELECT coalesce(headers->>'traceparent', ''), coalesce(headers->>'tracestate', '') FROM outbox`
			if err := s.pool.QueryRow(t.Context(), q).Scan(&parent, &state); err != nil {
				t.Fatal(err)
			}
			if parent != c.parent || state != c.state {
				t.Errorf("the command has traceparent %q and tracestate %q", parent, state)
			}
		})
	}
}

func TestADeclinedOrderIsCancelledWithTheReason(t *testing.T) {
	t.Parallel()
	s := newService(t)
	o := s.place()
	s.decline(o.Id)
	a := s.do("GET", "/v1/orders/"+o.Id.String(), "")
	o = decode[api.Order](t, a, stdhttp.StatusOK)
	if o.Status != api.OrderStatusCancelled || o.Reason == nil || o.Reason.Code != "card-declined" || o.Reason.Step == nil || *o.Reason.Step != "charge-customer" {
		t.Errorf("order is %s", a.body)
	}

	v := decode[api.Saga](t, s.do("GET", "/v1/sagas/"+o.Id.String(), ""), stdhttp.StatusOK)
	var steps []string
	for _, st := range v.Steps {
		steps = append(steps, st.Name+" "+string(st.Status))
	}
	want := []string{"reserve-stock compensated", "charge-customer failed", "update-inventory pending", "ship pending"}
	if v.Status != api.SagaStatusCompensated || v.EndedAt == nil || !slices.Equal(v.Actions, []string{"restart"}) || !cmp.Equal(want, steps) {
		t.Errorf("saga is %s with steps %v, want compensated with %v", v.Status, steps, want)
	}
	history := decode[api.History](t, s.do("GET", *v.Links.History, ""), stdhttp.StatusOK)
	if n := len(history.Items); n == 0 || history.HasMore || history.Items[n-1].Type != "compensated" {
		t.Errorf("history is %+v, want it to end with compensated", history.Items)
	}
}

// What waits for the end is answered by it; the request that placed the order
// included.
func TestPreferWaitAnswersWithTheEnd(t *testing.T) {
	t.Parallel()
	s := newService(t)
	done := make(chan answer, 1)
	go func() {
		a, err := s.try(t.Context(), "POST", "/v1/orders", oneBook, "Prefer", "respond-async, wait=60")
		if err != nil {
			t.Error(err)
		}
		done <- a
	}()
	s.confirm(s.onlySaga())
	a := <-done
	if o := decode[api.Order](t, a, stdhttp.StatusOK); o.Status != api.OrderStatusConfirmed {
		t.Errorf("order is %s, want confirmed", o.Status)
	}
	if got := a.header.Get("Preference-Applied"); got != "wait=60" {
		t.Errorf("Preference-Applied is %q", got)
	}
	if a.header.Get("Location") == "" || a.header.Get("Retry-After") != "" {
		t.Errorf("headers are %v, want a Location and nothing to retry", a.header)
	}
}

// onlySaga waits for the only saga to be there.
func (s *service) onlySaga() (id uuid.UUID) {
	s.t.Helper()
	testkit.Eventually(s.t, "a saga is stored", 30*time.Second, func() (bool, string) {
		err := s.pool.QueryRow(s.t.Context(), `SELECT id FROM saga`).Scan(&id)
		return err == nil, "none yet"
	})
	return id
}

func TestAWaitThatRunsOutIsAnsweredWithTheOrderAsItStands(t *testing.T) {
	t.Parallel()
	s := newService(t)
	for _, path := range []string{"/v1/orders", "/v1/sagas"} {
		body := oneBook
		if path == "/v1/sagas" {
			body = `{"definition": "order", "input": {"items": [], "total": "1", "currency": "EUR", "payment_method": "pm_ok", "customer_id": "c"}}`
		}
		a := s.do("POST", path, body, "Prefer", "wait=1")
		if a.status != stdhttp.StatusAccepted || a.header.Get("Preference-Applied") != "wait=1" || a.header.Get("Retry-After") != "1" {
			t.Errorf("POST %s gives %d with %v, want 202", path, a.status, a.header)
		}
		if a = s.do("GET", a.header.Get("Location"), "", "Prefer", "wait=1"); a.status != stdhttp.StatusOK || a.header.Get("Preference-Applied") != "wait=1" {
			t.Errorf("GET gives %d with %v, want 200", a.status, a.header)
		}
	}
}

// The limit of a wait is longer than the test's client waits.
func TestAServerThatStopsEndsTheWaits(t *testing.T) {
	t.Parallel()
	s := newService(t)
	s.client.Timeout = 30 * time.Second
	o := s.place()
	done := make(chan answer, 2)
	for _, method := range []string{"POST", "GET"} {
		path, body := "/v1/orders", oneBook
		if method == "GET" {
			path, body = path+"/"+o.Id.String(), ""
		}
		go func() {
			a, err := s.try(t.Context(), method, path, body, "Prefer", "wait=999999999")
			if err != nil {
				t.Error(err)
			}
			done <- a
		}()
	}
	s.stopping()
	for range 2 {
		if a := <-done; a.status/100 != 2 || a.header.Get("Preference-Applied") != "wait=60" {
			t.Errorf("answer is %d with %v, want the order and the wait's limit", a.status, a.header)
		}
	}
}

func TestAClientThatGoesAwayDoesNotUndoItsOrder(t *testing.T) {
	t.Parallel()
	s := newService(t)
	ctx, leave := context.WithCancel(t.Context())
	left := make(chan error, 1)
	go func() {
		_, err := s.try(ctx, "POST", "/v1/orders", oneBook, "Prefer", "wait=60")
		left <- err
	}()
	id := s.onlySaga()
	leave()
	if err := <-left; err == nil {
		t.Error("the client had an answer before it left")
	}
	testkit.Eventually(t, "the request is counted as left, not as failed", 30*time.Second, func() (bool, string) {
		text := string(s.do("GET", "/metrics", "").body)
		return strings.Contains(text, `http_request_duration_seconds_count{class="gone",operation="startOrder"} 1`), text
	})
	s.confirm(id)
	if o := decode[api.Order](t, s.do("GET", "/v1/orders/"+id.String(), ""), stdhttp.StatusOK); o.Status != api.OrderStatusConfirmed {
		t.Errorf("order is %s, want confirmed", o.Status)
	}
}

func TestASagaWithoutAnOrderIsNotAnOrder(t *testing.T) {
	t.Parallel()
	s := newService(t)
	v := decode[api.Saga](t, s.do("POST", "/v1/sagas", `{"definition": "order", "input": {"items": []}}`), stdhttp.StatusAccepted)
	for _, request := range [][3]string{
		{"GET", "/v1/orders/" + v.Id.String(), ""},
		{"POST", "/v1/orders/" + v.Id.String() + "/cancel", `{}`},
		{"GET", "/v1/orders/" + uuid.NewString(), ""},
		{"GET", "/v1/sagas/" + uuid.NewString(), ""},
		{"GET", "/v1/sagas/" + uuid.NewString() + "/history", ""},
		{"POST", "/v1/sagas/" + uuid.NewString() + "/cancel", ""},
		{"POST", "/v1/orders/" + uuid.NewString() + "/cancel", ""},
	} {
		if p := decode[api.Problem](t, s.do(request[0], request[1], request[2]), stdhttp.StatusNotFound); p.Code != api.ProblemCodeNotFound {
			t.Errorf("%s %s: %s", request[0], request[1], p.Code)
		}
	}
	if list := decode[api.OrderList](t, s.do("GET", "/v1/orders", ""), stdhttp.StatusOK); len(list.Items) != 0 {
		t.Errorf("orders are %+v, want none", list.Items)
	}
	if again := decode[api.Saga](t, s.do("GET", v.Links.Self, ""), stdhttp.StatusOK); again.CancelRequested {
		t.Error("the saga was cancelled as an order")
	}
}

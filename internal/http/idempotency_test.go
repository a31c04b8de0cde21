package http_test

import (
	stdhttp "net/http"
	"sync"
	"testing"

	"github.com/google/uuid"

	"github.com/skald-saga/skald/internal/http/api"
)

// P8: one key makes one saga, under any concurrency.
func TestAHundredRequestsWithOneKeyPlaceOneOrder(t *testing.T) {
	t.Parallel()
	s := newService(t)
	const n = 100
	answers := make([]answer, n)
	var wg sync.WaitGroup
	begin := make(chan struct{})
	for i := range n {
		wg.Go(func() {
			<-begin
			var err error
			if answers[i], err = s.try(t.Context(), "POST", "/v1/orders", oneBook, "Idempotency-Key", "key-1"); err != nil {
				t.Error(err)
			}
		})
	}
	close(begin)
	wg.Wait()
	ids, replayed := map[uuid.UUID]bool{}, 0
	for _, a := range answers {
		ids[decode[api.Order](t, a, stdhttp.StatusAccepted).Id] = true
		if a.header.Get("Idempotent-Replayed") == "true" {
			replayed++
		}
	}
	if len(ids) != 1 || replayed != n-1 {
		t.Errorf("%d orders and %d replays, want 1 and %d", len(ids), replayed, n-1)
	}
	if list := decode[api.OrderList](t, s.do("GET", "/v1/orders", ""), stdhttp.StatusOK); len(list.Items) != 1 {
		t.Errorf("%d orders are stored, want 1", len(list.Items))
	}
}

// P8: a repetition answers with the order as it now stands.
func TestARepetitionIsAnsweredWithTheOrderAsItNowStands(t *testing.T) {
	t.Parallel()
	s := newService(t)
	first := decode[api.Order](t, s.do("POST", "/v1/orders", oneBook, "Idempotency-Key", "key-1"), stdhttp.StatusAccepted)
	s.confirm(first.Id)
	for what, headers := range map[string][]string{
		"the same key":           {"Idempotency-Key", "key-1"},
		"the key in quotes":      {"Idempotency-Key", `"key-1"`},
		"with a wait":            {"Idempotency-Key", "key-1", "Prefer", "wait=60"},
		"with another media tag": {"Idempotency-Key", "key-1", "Content-Type", "application/json; charset=UTF-8"},
	} {
		a := s.do("POST", "/v1/orders", oneBook, headers...)
		o := decode[api.Order](t, a, stdhttp.StatusOK)
		if o.Id != first.Id || o.Status != api.OrderStatusConfirmed || a.header.Get("Idempotent-Replayed") != "true" || a.header.Get("Location") == "" {
			t.Errorf("%s: order %s is %s with %v, want %s confirmed and replayed", what, o.Id, o.Status, a.header, first.Id)
		}
	}
}

// P8: the same key with another body is refused, with the same JSON written
// otherwise it is not.
func TestAKeyStandsForOneRequest(t *testing.T) {
	t.Parallel()
	s := newService(t)
	first := decode[api.Order](t, s.do("POST", "/v1/orders", oneBook, "Idempotency-Key", "key-1"), stdhttp.StatusAccepted)
	for what, body := range map[string]string{
		"other white space and member order": `{"payment_method":"pm_ok","items":[{"unit_price":"12.5","sku":"book","quantity":2}],"currency":"EUR","customer_id":"c-42"}`,
		"an escape for a letter":             `{"customer_id": "c-42", "currency": "EUR", "items": [{"sku": "\u0062ook", "quantity": 2, "unit_price": "12.5"}], "payment_method": "pm_ok"}`,
	} {
		a := s.do("POST", "/v1/orders", body, "Idempotency-Key", "key-1")
		if o := decode[api.Order](t, a, stdhttp.StatusAccepted); o.Id != first.Id {
			t.Errorf("%s: another order, %s", what, a.body)
		}
	}
	before := s.rows()
	for what, body := range map[string]string{
		"another quantity":       `{"customer_id": "c-42", "currency": "EUR", "items": [{"sku": "book", "quantity": 3, "unit_price": "12.5"}], "payment_method": "pm_ok"}`,
		"a price said otherwise": `{"customer_id": "c-42", "currency": "EUR", "items": [{"sku": "book", "quantity": 2, "unit_price": "12.50"}], "payment_method": "pm_ok"}`,
		"one member more":        `{"customer_id": "c-42", "currency": "EUR", "items": [{"sku": "book", "quantity": 2, "unit_price": "12.5"}], "payment_method": "pm_ok", "ship_to": {"name": "A", "country": "DE"}}`,
	} {
		a := s.do("POST", "/v1/orders", body, "Idempotency-Key", "key-1")
		p := decode[api.Problem](t, a, stdhttp.StatusUnprocessableEntity)
		if p.Code != api.ProblemCodeIdempotencyKeyReused || p.Retryable || (*p.Errors)[0].Pointer != "header:Idempotency-Key" {
			t.Errorf("%s: %s", what, a.body)
		}
	}
	if n := s.rows(); n != before {
		t.Errorf("refused requests wrote %d rows", n-before)
	}
}

func TestKeysOfDifferentRoutesAreDifferent(t *testing.T) {
	t.Parallel()
	s := newService(t)
	o := decode[api.Order](t, s.do("POST", "/v1/orders", oneBook, "Idempotency-Key", "key-1"), stdhttp.StatusAccepted)
	const body = `{"definition": "order", "input": {"n": 10000000000000000000000001}}`
	a := s.do("POST", "/v1/sagas", body, "Idempotency-Key", "key-1")
	v := decode[api.Saga](t, a, stdhttp.StatusOK) // its input is not an order's: it is undone at once
	if v.Id == o.Id || a.header.Get("Idempotent-Replayed") != "" {
		t.Errorf("the saga is %s with %v, want a new one beside %s", v.Id, a.header, o.Id)
	}
	if again := decode[api.Saga](t, s.do("POST", "/v1/sagas", body, "Idempotency-Key", "key-1"), stdhttp.StatusOK); again.Id != v.Id {
		t.Errorf("the repetition gives %s, want %s", again.Id, v.Id)
	}
	// The two numbers are the same to a reader that takes them for floats.
	other := `{"definition": "order", "input": {"n": 10000000000000000000000002}}`
	if p := decode[api.Problem](t, s.do("POST", "/v1/sagas", other, "Idempotency-Key", "key-1"), stdhttp.StatusUnprocessableEntity); p.Code != api.ProblemCodeIdempotencyKeyReused {
		t.Errorf("another number gives %s", p.Code)
	}
}

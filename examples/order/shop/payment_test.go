package shop_test

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/skald-saga/skald/internal/testkit"
	"github.com/skald-saga/skald/internal/wire"
)

// charges is an order's money as the gateway has it: "status amount currency".
func (o order) charges() string {
	o.t.Helper()
	return one[string](o.harness, `
		SELECT coalesce(string_agg(status || ' ' || amount || ' ' || currency, ', '), '') FROM payment.charges WHERE order_id = $1`, o.id)
}

func TestTheGatewayKnowsItsTestTokens(t *testing.T) {
	t.Parallel()
	h := open(t)
	for _, tc := range []struct {
		method  string
		replies []string
		charges string
	}{
		{"pm_ok", []string{"succeeded", "succeeded"}, "charged 12.5000 EUR"},
		{"pm_declined", []string{"failed card_declined", "failed card_declined"}, ""},
		{"pm_flaky", []string{"retry transient", "retry transient", "succeeded", "succeeded"}, "charged 12.5000 EUR"},
		{"pm_slow", []string{"succeeded"}, "charged 12.5000 EUR"},
		{"pm_silent", []string{"retry transient", "retry transient"}, "charged 12.5000 EUR"},
		{"pm_gold", []string{"failed unknown_payment_method"}, ""},
		{"", []string{"failed unknown_payment_method"}, ""},
	} {
		t.Run("token "+tc.method, func(t *testing.T) {
			t.Parallel()
			o := h.order()
			for i, reply := range tc.replies {
				want(t, "reply", text(o.do("payment", "charge", i+1, payment(tc.method, "12.50"))), reply)
			}
			want(t, "charges", o.charges(), tc.charges)
		})
	}
}

func TestThePaymentParticipantRefusesWhatIsNoMoney(t *testing.T) {
	t.Parallel()
	h := open(t)
	charge := func(amount, currency any) map[string]any {
		return map[string]any{"amount": amount, "currency": currency, "payment_method": "pm_ok", "customer_id": "c-1"}
	}
	for name, payload := range map[string]any{
		"no payload":          nil,
		"a float":             charge(12.5, "EUR"),
		"words":               charge("much", "EUR"),
		"nothing":             charge("0.00", "EUR"),
		"less than nothing":   charge("-1", "EUR"),
		"five places":         charge("1.00001", "EUR"),
		"more than there is":  charge("1234567890123456", "EUR"),
		"another notation":    charge("1e3", "EUR"),
		"a line more":         charge("1\n", "EUR"),
		"no currency":         charge("1", ""),
		"a currency's symbol": charge("1", "€"),
	} {
		o := h.order()
		want(t, name, text(o.do("payment", "charge", 1, payload)), "failed invalid_payload")
		want(t, name, o.charges(), "")
	}
}

// awaitStarted waits until the participant is at work for the order.
func (o order) awaitStarted() {
	o.t.Helper()
	testkit.Eventually(o.t, "the charge has begun", 10*time.Second, func() (bool, string) {
		n := one[int](o.harness, `SELECT count(*) FROM skald_inbox WHERE status = 'started' AND effect_id LIKE $1 || '%'`, o.id)
		return n == 1, fmt.Sprint(n)
	})
}

// P5: the attempt that meets the running one hears that it goes on; the money
// is taken once.
func TestAnotherAttemptDuringASlowPaymentTakesNoMoney(t *testing.T) {
	t.Parallel()
	o := open(t).order()
	first := o.post("payment", "charge", o.command("charge", wire.Action, 1), payment("pm_slow", "5"))
	o.awaitStarted()
	want(t, "second attempt", text(o.do("payment", "charge", 2, payment("pm_slow", "5"))), "in_progress")
	want(t, "first attempt", text(o.await(first)), "succeeded")
	want(t, "charges", o.charges(), "charged 5.0000 EUR")
}

// P3, P5: a payment that nobody answered for was taken; it is given back once.
func TestASilentPaymentIsGivenBackOnce(t *testing.T) {
	t.Parallel()
	o := open(t).order()
	want(t, "charge", text(o.do("payment", "charge", 1, payment("pm_silent", "7.10"))), "retry transient")
	for range 3 {
		want(t, "refund", text(o.undo("payment", "refund", "charge", wire.Unknown)), "succeeded")
	}
	want(t, "charges", o.charges(), "refunded 7.1000 EUR")
	want(t, "late attempt", text(o.do("payment", "charge", 2, payment("pm_silent", "7.10"))), "failed compensated")
	want(t, "charges", o.charges(), "refunded 7.1000 EUR")
}

// P5: a refund that overtakes a charge on its way to the gateway calls it off
// there, and the charge takes nothing when it arrives.
func TestARefundOvertakesItsCharge(t *testing.T) {
	t.Parallel()
	o := open(t).order()
	charge := o.post("payment", "charge", o.command("charge", wire.Action, 1), payment("pm_slow", "5"))
	o.awaitStarted()
	want(t, "refund", text(o.undo("payment", "refund", "charge", wire.Unknown)), "succeeded")
	want(t, "charges", o.charges(), "voided 0.0000 XXX")
	want(t, "charge", text(o.await(charge)), "failed compensated")
	want(t, "charges", o.charges(), "voided 0.0000 XXX")
}

// P3: what was taken less what was given back is what unrefunded charges say.
func TestMoneyAddsUp(t *testing.T) {
	t.Parallel()
	h := open(t)
	var customers sync.WaitGroup
	for i := range 40 {
		customers.Go(func() {
			o := h.order()
			method := []string{"pm_ok", "pm_flaky", "pm_declined", "pm_ok"}[i%4]
			for attempt := 1; attempt <= 4; attempt++ {
				again := o.post("payment", "charge", o.command("charge", wire.Action, attempt), payment(method, "2.25"))
				r := o.do("payment", "charge", attempt, payment(method, "2.25"))
				o.await(again)
				if r.Outcome == wire.Succeeded || r.Outcome == wire.Failed {
					break
				}
			}
			if i%8 < 2 { // half of those that can be charged
				again := o.postUndo("payment", "refund", "charge", wire.Unknown)
				o.undo("payment", "refund", "charge", wire.Unknown)
				o.await(again)
			}
		})
	}
	customers.Wait()
	// 30 of 40 are charged, 10 of those are given back.
	want(t, "taken", one[string](h, `SELECT sum(amount)::text FROM payment.charges WHERE status IN ('charged', 'refunded')`), "67.5000")
	want(t, "given back", one[string](h, `SELECT sum(amount)::text FROM payment.charges WHERE status = 'refunded'`), "22.5000")
	want(t, "rows", one[int](h, `SELECT count(*) FROM payment.charges`), 30)
}

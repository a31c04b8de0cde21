package shop_test

import (
	"encoding/json"
	"testing"
)

func TestAnOrderTakesItsGoodsAndItsMoneyAndIsShipped(t *testing.T) {
	t.Parallel()
	h := open(t)
	o := h.order()

	r := o.do("inventory", "reserve", 1, items("lamp", 2, "book", 1))
	want(t, "reserve", text(r), "succeeded")
	want(t, "reserved lamps", h.stock("lamp"), "8/2/0")
	want(t, "reserved books", h.stock("book"), "999999/1/0")
	var reservation struct{ ID string }
	if err := json.Unmarshal(r.Body, &reservation); err != nil {
		t.Fatal(err)
	}
	want(t, "charge", text(o.do("payment", "charge", 1, payment("pm_ok", "37.50"))), "succeeded")
	want(t, "money", one[string](h, `SELECT amount::text FROM payment.charges WHERE order_id = $1 AND status = 'charged'`, o.id), "37.5000")

	want(t, "commit", text(o.do("inventory", "commit", 1, map[string]string{"reservation": reservation.ID})), "succeeded")
	want(t, "sold lamps", h.stock("lamp"), "8/0/2")
	want(t, "sold books", h.stock("book"), "999999/0/1")

	shipment := items("lamp", 2)
	shipment["to"] = map[string]string{"name": "Ada", "country": "DE"}
	want(t, "dispatch", text(o.do("shipping", "dispatch", 1, shipment)), "succeeded")
	want(t, "shipments", one[int](h, `SELECT count(*) FROM shipping.shipments WHERE order_id = $1`, o.id), 1)
}

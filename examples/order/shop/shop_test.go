package shop_test

import (
	"context"
	"encoding/json"
	"math/rand/v2"
	"sync"
	"testing"

	"github.com/skald-saga/skald/examples/order/shop"
	"github.com/skald-saga/skald/internal/testkit"
	"github.com/skald-saga/skald/internal/wire"
)

func TestAnOrderTakesItsGoodsAndItsMoneyAndIsShipped(t *testing.T) {
	t.Parallel()
	h := open(t)
	o := h.order()

	r := o.do("inventory", "reserve", 1, items("lamp", 2, "book", 1))
	want(t, "reserve", text(r), "succeeded")
	want(t, "reserved lamps", h.stock("lamp"), "8/2/0")
	want(t, "reserved books", h.stock("book"), "999999/1/0")
	want(t, "charge", text(o.do("payment", "charge", 1, payment("pm_ok", "37.50"))), "succeeded")
	want(t, "money", one[string](h, `SELECT amount::text FROM payment.charges WHERE order_id = $1 AND status = 'charged'`, o.id), "37.5000")

	want(t, "commit", text(o.do("inventory", "commit", 1, reservation(t, r))), "succeeded")
	want(t, "sold lamps", h.stock("lamp"), "8/0/2")
	want(t, "sold books", h.stock("book"), "999999/0/1")

	shipment := items("lamp", 2)
	shipment["to"] = map[string]string{"name": "Ada", "country": "DE"}
	want(t, "dispatch", text(o.do("shipping", "dispatch", 1, shipment)), "succeeded")
	want(t, "recipient", one[string](h, `SELECT recipient->>'name' FROM shipping.shipments WHERE order_id = $1`, o.id), "Ada")
}

// reservation is the payload of a commit after the reply to a reserve.
func reservation(t *testing.T, r wire.Reply) map[string]string {
	t.Helper()
	var body struct{ ID string }
	if err := json.Unmarshal(r.Body, &body); err != nil || body.ID == "" {
		t.Errorf("reply to reserve %s: no id (%v)", r.Body, err)
	}
	return map[string]string{"reservation": body.ID}
}

func TestInventoryRefusesWhatItDoesNotHave(t *testing.T) {
	t.Parallel()
	h := open(t)
	for _, tc := range []struct {
		name    string
		payload any
		reply   string
	}{
		{"none on hand", items("unicorn", 1), "failed out_of_stock"},
		{"fewer on hand", items("lamp", 11), "failed out_of_stock"},
		{"fewer on hand than all items of a sku together", items("lamp", 6, "lamp", 6), "failed out_of_stock"},
		{"the same, with another between", items("lamp", 6, "book", 1, "lamp", 6), "failed out_of_stock"},
		{"one of several is not on hand", items("book", 1, "lamp", 1, "unicorn", 1), "failed out_of_stock"},
		{"goods that are not sold here", items("book", 1, "dragon", 1), "failed unknown_sku"},
		{"no items", map[string]any{"items": []any{}}, "failed invalid_payload"},
		{"no payload", nil, "failed invalid_payload"},
		{"nothing of something", items("book", 0), "failed invalid_payload"},
		{"less than nothing", items("book", -1), "failed invalid_payload"},
		{"more than there can be", items("book", int64(1)<<40), "failed invalid_payload"},
		{"more than there can be, in parts", items("book", 1_000_000_000, "book", 1_000_000_000), "failed invalid_payload"},
		{"half a thing", items("book", 0.5), "failed invalid_payload"},
		{"a sku that Postgres cannot store", items("bo\x00ok", 1), "failed invalid_payload"},
		{"another shape", []int{1}, "failed invalid_payload"},
	} {
		o := h.order()
		want(t, tc.name, text(o.do("inventory", "reserve", 1, tc.payload)), tc.reply)
	}
	want(t, "books", h.stock("book"), "1000000/0/0")
	want(t, "lamps", h.stock("lamp"), "10/0/0")
	want(t, "reservations", one[int](h, `SELECT count(*) FROM inventory.reservations`), 0)
}

func TestAReservationEndsOnce(t *testing.T) {
	t.Parallel()
	h := open(t)
	released, sold, other := h.order(), h.order(), h.order()
	r := released.do("inventory", "reserve", 1, items("lamp", 3))
	want(t, "release", text(released.undo("inventory", "release", "reserve", wire.Succeeded)), "succeeded")
	want(t, "release again", text(released.undo("inventory", "release", "reserve", wire.Succeeded)), "succeeded")
	want(t, "lamps", h.stock("lamp"), "10/0/0")
	want(t, "commit of what was released", text(released.do("inventory", "commit", 1, reservation(t, r))), "failed reservation_released")

	r = sold.do("inventory", "reserve", 1, items("lamp", 4))
	want(t, "commit for another order", text(other.do("inventory", "commit", 1, reservation(t, r))), "failed unknown_reservation")
	want(t, "lamps", h.stock("lamp"), "6/4/0")
	want(t, "commit", text(sold.do("inventory", "commit", 1, reservation(t, r))), "succeeded")
	want(t, "release of what was sold", text(sold.undo("inventory", "release", "reserve", wire.Succeeded)), "retry transient")
	want(t, "lamps", h.stock("lamp"), "6/0/4")
}

func TestShippingRefusesWhatItCannotDeliver(t *testing.T) {
	t.Parallel()
	h := open(t)
	to := func(payload map[string]any, to any) map[string]any { payload["to"] = to; return payload }
	for name, payload := range map[string]any{
		"nowhere to":    items("book", 1),
		"an empty to":   to(items("book", 1), map[string]string{}),
		"a to of text":  to(items("book", 1), "Ada"),
		"nothing in it": map[string]any{"to": map[string]string{"name": "Ada"}},
	} {
		want(t, name, text(h.order().do("shipping", "dispatch", 1, payload)), "failed invalid_payload")
	}
	want(t, "shipments", one[int](h, `SELECT count(*) FROM shipping.shipments`), 0)
}

// P5, P3: however orders compete for the same goods, in whatever order they
// name them, pieces are neither made nor lost, and what is reserved is exactly
// what open reservations hold.
func TestPiecesAreNeitherMadeNorLost(t *testing.T) {
	t.Parallel()
	h := open(t)
	if _, err := h.pool.Exec(t.Context(), `INSERT INTO inventory.stock (sku, on_hand) VALUES ('chair', 60), ('table', 40)`); err != nil {
		t.Fatal(err)
	}
	var customers sync.WaitGroup
	for range 60 {
		customers.Go(func() {
			o := h.order()
			skus := []string{"chair", "table", "lamp"}
			rand.Shuffle(len(skus), func(i, j int) { skus[i], skus[j] = skus[j], skus[i] })
			payload := items(skus[0], 1+rand.IntN(3), skus[1], 1+rand.IntN(3))
			var r wire.Reply
			for attempt := 1; ; attempt++ { // each twice, at once
				again := o.post("inventory", "reserve", o.command("reserve", wire.Action, attempt), payload)
				r = o.do("inventory", "reserve", attempt, payload)
				if dup := o.await(again); dup.Outcome == wire.Succeeded || dup.Outcome == wire.Failed {
					r = dup
				}
				if r.Outcome == wire.Succeeded || r.Outcome == wire.Failed {
					break
				}
			}
			if r.Outcome == wire.Failed {
				want(t, "refusal", text(r), "failed out_of_stock")
				return
			}
			switch rand.IntN(3) {
			case 0:
				want(t, "release", text(o.undo("inventory", "release", "reserve", wire.Succeeded)), "succeeded")
			case 1:
				want(t, "commit", text(o.do("inventory", "commit", 1, reservation(t, r))), "succeeded")
			}
		})
	}
	customers.Wait()
	const q = `
		SELECT coalesce(string_agg(s.sku || ': ' || s.on_hand || '/' || s.reserved || '/' || s.sold, ', '), '')
		FROM inventory.stock s
		LEFT JOIN (
			SELECT i.sku, sum(i.quantity) FILTER (WHERE r.status = 'reserved') AS open, sum(i.quantity) FILTER (WHERE r.status = 'committed') AS sold
			FROM inventory.reservation_items i JOIN inventory.reservations r ON r.id = i.reservation_id GROUP BY 1) h USING (sku)
		WHERE s.on_hand + s.reserved + s.sold <> CASE s.sku WHEN 'book' THEN 1000000 WHEN 'lamp' THEN 10 WHEN 'unicorn' THEN 0 WHEN 'chair' THEN 60 ELSE 40 END
		   OR s.reserved <> coalesce(h.open, 0) OR s.sold <> coalesce(h.sold, 0)`
	want(t, "stock that does not add up", one[string](h, q), "")
	want(t, "competition", one[bool](h, `SELECT sum(sold) > 0 AND sum(reserved) > 0 FROM inventory.stock`), true)
	want(t, "deadlocks", one[int](h, `SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()`), 0)
}

// Whatever is installed already stays: a restart does not refill the shelf.
func TestInstallMayRunAgainAndAtOnce(t *testing.T) {
	t.Parallel()
	pool := testkit.Pool(t, testkit.EmptyDatabaseURL(t)+"&pool_max_conns=8")
	var installers sync.WaitGroup
	for range 8 {
		installers.Go(func() {
			if err := shop.Install(context.Background(), pool); err != nil {
				t.Error(err)
			}
		})
	}
	installers.Wait()
	h := &harness{t: t, pool: pool}
	if _, err := pool.Exec(t.Context(), `UPDATE inventory.stock SET on_hand = 7, sold = 3 WHERE sku = 'lamp'`); err != nil {
		t.Fatal(err)
	}
	if err := shop.Install(t.Context(), pool); err != nil {
		t.Fatal(err)
	}
	want(t, "lamps", h.stock("lamp"), "7/0/3")
	want(t, "books", h.stock("book"), "1000000/0/0")
	want(t, "unicorns", h.stock("unicorn"), "0/0/0")
	want(t, "tables without a comment", one[string](h, `
		SELECT coalesce(string_agg(c.oid::regclass::text, ', '), '') FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
		WHERE c.relkind = 'r' AND n.nspname IN ('inventory', 'payment', 'shipping') AND obj_description(c.oid, 'pg_class') IS NULL`), "")
}

// A participant that waits for its database is not told wrongly that all is well.
func TestOrdersGoOnAfterTheDatabaseWasAway(t *testing.T) {
	t.Parallel()
	h := open(t)
	o := h.order()
	if _, err := h.pool.Exec(t.Context(), `ALTER TABLE inventory.stock RENAME TO gone`); err != nil {
		t.Fatal(err)
	}
	want(t, "while it is away", text(o.do("inventory", "reserve", 1, items("book", 1))), "retry transient")
	if _, err := h.pool.Exec(t.Context(), `ALTER TABLE inventory.gone RENAME TO stock`); err != nil {
		t.Fatal(err)
	}
	want(t, "afterwards", text(o.do("inventory", "reserve", 2, items("book", 1))), "succeeded")
	want(t, "books", h.stock("book"), "999999/1/0")
}

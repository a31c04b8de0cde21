package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/skald-saga/skald/internal/testkit"
)

// customers place orders, as clients do that want each order placed once
// whatever happens: with a key, repeating the request until it is answered.
type customers struct {
	s      *system
	client *http.Client
	again  atomic.Int64 // requests that had to be repeated

	mu  sync.Mutex
	ids map[string]string // by key
}

// order is what the tests read of an order.
type order struct {
	ID     string `json:"id"`
	Status string `json:"status"`
	Total  string `json:"total"`
}

// payment methods, as often as they occur among twenty orders.
var payments = []string{
	"pm_ok", "pm_ok", "pm_ok", "pm_ok", "pm_ok", "pm_ok", "pm_ok", "pm_ok", "pm_ok", "pm_ok", "pm_ok", "pm_ok",
	"pm_declined", "pm_declined", "pm_declined", "pm_flaky", "pm_flaky", "pm_flaky", "pm_slow", "pm_silent",
}

func body(i int) map[string]any {
	b := map[string]any{
		"customer_id": fmt.Sprintf("c-%d", i%7), "currency": "EUR", "payment_method": payments[i%len(payments)],
		"items": []any{map[string]any{"sku": "book", "quantity": 1 + i%3, "unit_price": "12.50"}},
	}
	switch i % 11 {
	case 3:
		b["items"] = []any{map[string]any{"sku": "unicorn", "quantity": 1, "unit_price": "999.00"}}
	case 4, 5:
		b["items"] = append(b["items"].([]any), map[string]any{"sku": "lamp", "quantity": 1, "unit_price": "30.00"})
	}
	if i%2 == 0 {
		b["ship_to"] = map[string]any{"name": "Ada", "country": "DE"}
	}
	return b
}

// customers is how many place orders at once, and pace how long each waits
// between two.
const (
	crowd = 4
	pace  = 20 * time.Millisecond
)

// place places orders until ctx ends.
func (s *system) place(ctx context.Context) *customers {
	s.t.Helper()
	c := &customers{s: s, client: &http.Client{Timeout: 10 * time.Second}, ids: map[string]string{}}
	var next atomic.Int64
	var wg sync.WaitGroup
	for range crowd {
		wg.Go(func() {
			for ctx.Err() == nil {
				i := int(next.Add(1)) - 1
				c.one(fmt.Sprintf("key-%d", i), body(i))
				pause(ctx, pace)
			}
		})
	}
	wg.Wait()
	return c
}

func pause(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

// one places one order and, now and then, repeats the request although it was
// answered.
func (c *customers) one(key string, body map[string]any) {
	payload, err := json.Marshal(body)
	if err != nil {
		c.s.t.Error(err)
		return
	}
	deadline := time.Now().Add(2 * time.Minute)
	for repeats := rand.IntN(2); ; {
		o, err := c.post(key, payload)
		if err != nil {
			c.again.Add(1)
			pause(context.Background(), pace)
			if time.Now().After(deadline) {
				c.s.t.Errorf("order %s was not placed: %v", key, err)
				return
			}
			continue
		}
		c.mu.Lock()
		if id, known := c.ids[key]; known && id != o.ID {
			c.s.t.Errorf("P8: key %s made the orders %s and %s", key, id, o.ID)
		}
		c.ids[key] = o.ID
		c.mu.Unlock()
		if repeats--; repeats < 0 {
			return
		}
	}
}

func (c *customers) post(key string, payload []byte) (order, error) {
	req, err := http.NewRequest(http.MethodPost, c.s.api+"/v1/orders", bytes.NewReader(payload))
	if err != nil {
		return order{}, err
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Idempotency-Key", key)
	resp, err := c.client.Do(req)
	if err != nil {
		return order{}, err
	}
	defer func() { _ = resp.Body.Close() }()
	b, err := io.ReadAll(resp.Body)
	switch {
	case err != nil:
		return order{}, err
	case resp.StatusCode == http.StatusServiceUnavailable:
		return order{}, fmt.Errorf("%s", resp.Status)
	case resp.StatusCode >= 300:
		c.s.t.Errorf("order %s: %s: %s", key, resp.Status, b)
		return order{}, fmt.Errorf("%s", resp.Status)
	}
	var o order
	return o, json.Unmarshal(b, &o)
}

// settle waits until every saga has ended (P2).
func (s *system) settle(limit time.Duration) {
	s.t.Helper()
	pool := s.pool(s.skaldURL)
	testkit.Eventually(s.t, "P2: every saga ends", limit, func() (bool, string) {
		rows, err := pool.Query(context.Background(), `SELECT status || ' ' || count(*) FROM saga GROUP BY status ORDER BY 1`)
		if err != nil {
			return false, err.Error()
		}
		counts, err := pgx.CollectRows(rows, pgx.RowTo[string])
		open := s.query(pool, `SELECT count(*)::text FROM saga WHERE status NOT IN ('completed', 'compensated')`)
		return err == nil && open == "0", fmt.Sprint(counts)
	})
}

// audit checks, in the databases themselves, that every order had all of its
// effects or none, and each once (P1, P3, P5, P8, P9).
func (s *system) audit(c *customers) {
	t := s.t
	t.Helper()
	skald, shop := s.pool(s.skaldURL), s.pool(s.shopURL)
	if n := s.query(skald, `SELECT count(*)::text FROM orders`); n != fmt.Sprint(len(c.ids)) {
		t.Errorf("P8: %s orders for %d keys", n, len(c.ids))
	}
	confirmed := s.query(skald, `SELECT count(*)::text FROM saga WHERE status = 'completed'`)
	t.Logf("%d orders, %s confirmed; %d requests were repeated", len(c.ids), confirmed, c.again.Load())
	if confirmed == "0" {
		t.Error("no order was confirmed")
	}
	sold := map[string]string{}
	for _, sku := range []string{"book", "lamp", "unicorn"} {
		sold[sku] = s.query(skald, `
			SELECT coalesce(sum((i->>'quantity')::int), 0)::text FROM saga, json_array_elements(input->'items') i
			WHERE status = 'completed' AND i->>'sku' = $1`, sku)
	}
	for sku, stock := range map[string]string{"book": "1000000", "lamp": "10", "unicorn": "0"} {
		got := s.query(shop, `SELECT format('%s in all, %s reserved, %s sold', on_hand + reserved + sold, reserved, sold) FROM inventory.stock WHERE sku = $1`, sku)
		if want := fmt.Sprintf("%s in all, 0 reserved, %s sold", stock, sold[sku]); got != want {
			t.Errorf("%s: %s; want %s", sku, got, want)
		}
	}
	value := s.query(skald, `SELECT coalesce(sum(total), 0)::numeric(19, 2)::text FROM orders JOIN saga USING (id) WHERE status = 'completed'`)
	kept := s.query(shop, `SELECT coalesce(sum(amount) FILTER (WHERE status = 'charged'), 0)::numeric(19, 2)::text FROM payment.charges`)
	if value != kept {
		t.Errorf("confirmed orders are worth %s, and %s was kept", value, kept)
	}
	for what, check := range map[string]struct {
		sql string
		in  string
	}{
		"P5: orders charged more than once":    {`SELECT count(*)::text FROM (SELECT order_id FROM payment.charges WHERE status = 'charged' GROUP BY 1 HAVING count(*) > 1) x`, "shop"},
		"P5: orders shipped more than once":    {`SELECT count(*)::text FROM (SELECT order_id FROM shipping.shipments GROUP BY 1 HAVING count(*) > 1) x`, "shop"},
		"P6: unreadable replies":               {`SELECT count(*)::text FROM dead_letter`, "skald"},
		"P9: messages that NATS did not take":  {`SELECT count(*)::text FROM outbox_dead`, "skald"},
		"P9: messages that are parked":         {`SELECT count(*)::text FROM outbox_parked`, "skald"},
		"P9: messages that were not published": {`SELECT count(*)::text FROM outbox, outbox_lane l WHERE NOT pg_visible_in_snapshot(xid, l.snap_from)`, "skald"},
	} {
		pool := skald
		if check.in == "shop" {
			pool = shop
		}
		testkit.Eventually(t, "none: "+what, 10*time.Second, func() (bool, string) {
			n := s.query(pool, check.sql)
			return n == "0", n
		})
	}
	shipped := s.query(shop, `SELECT count(*)::text FROM shipping.shipments`)
	want := s.query(skald, `SELECT count(*)::text FROM saga WHERE status = 'completed' AND input->'ship_to' IS NOT NULL`)
	if shipped != want {
		t.Errorf("%s shipments for %s confirmed orders with an address", shipped, want)
	}
	s.verifyHistories()
}

// verifyHistories is P7, by the program that operators run.
func (s *system) verifyHistories() {
	s.t.Helper()
	p := s.program("cmd/server", "verify", "--database-url", s.skaldURL)
	p.start()
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := p.cmd.Wait(); err != nil {
		s.t.Errorf("P7: %v\n%s", err, p.log.Bytes())
	}
	p.cmd = nil
}

// during places orders while disturb happens, several times, at random moments.
func (s *system) during(times int, disturb func()) *customers {
	s.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		defer cancel()
		for range times {
			pause(ctx, time.Duration(200+rand.IntN(1500))*time.Millisecond)
			disturb()
		}
	}()
	return s.place(ctx)
}

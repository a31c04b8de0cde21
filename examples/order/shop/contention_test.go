package shop_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/skald-saga/skald/internal/testkit"
	"github.com/skald-saga/skald/internal/wire"
)

// elsewhere is a transaction of another process that holds locks on stock.
func (h *harness) elsewhere(sql string) pgx.Tx {
	h.t.Helper()
	tx, err := h.pool.Begin(h.t.Context())
	if err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() { _ = tx.Rollback(context.Background()) })
	if _, err := tx.Exec(h.t.Context(), sql); err != nil {
		h.t.Fatal(err)
	}
	return tx
}

func (h *harness) awaitLockWait() {
	h.t.Helper()
	testkit.Eventually(h.t, "a session waits for a lock", 10*time.Second, func() (bool, string) {
		n := one[int](h, `SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'`)
		return n > 0, fmt.Sprint(n)
	})
}

// P3: what another process is taking is not on hand.
func TestAReservationWaitsForWhoeverHasTheStock(t *testing.T) {
	t.Parallel()
	h := open(t)
	tx := h.elsewhere(`UPDATE inventory.stock SET on_hand = 2, reserved = 8 WHERE sku = 'lamp'`)
	o := h.order()
	reply := o.post("inventory", "reserve", o.command("reserve", wire.Action, 1), items("lamp", 3))
	h.awaitLockWait()
	if err := tx.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	want(t, "reply", text(o.await(reply)), "failed out_of_stock")
	want(t, "lamps", h.stock("lamp"), "2/8/0")
}

// Two orders with the same goods in another order do not block each other.
func TestStockIsLockedInOneOrder(t *testing.T) {
	t.Parallel()
	h := open(t)
	tx := h.elsewhere(`SELECT FROM inventory.stock WHERE sku = 'book' FOR UPDATE`)
	o := h.order()
	reply := o.post("inventory", "reserve", o.command("reserve", wire.Action, 1), items("lamp", 1, "book", 1))
	h.awaitLockWait() // for books, before it has the lamps
	if _, err := tx.Exec(t.Context(), `SELECT FROM inventory.stock WHERE sku = 'lamp' FOR UPDATE NOWAIT`); err != nil {
		t.Error(err)
	}
	if err := tx.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	want(t, "reply", text(o.await(reply)), "succeeded")
}

// gate returns the payload of an order that is not done before the gate opens.
func (h *harness) gate() map[string]any {
	h.t.Helper()
	_, err := h.pool.Exec(h.t.Context(), `
		CREATE TABLE gate AS SELECT false AS open;
		CREATE FUNCTION wait_at_gate() RETURNS trigger LANGUAGE plpgsql AS $$
			BEGIN
				WHILE NOT (SELECT open FROM gate) LOOP PERFORM pg_sleep(0.01); END LOOP;
				RETURN NEW;
			END $$;
		CREATE TRIGGER gate BEFORE INSERT ON inventory.reservation_items FOR EACH ROW WHEN (NEW.sku = 'book') EXECUTE FUNCTION wait_at_gate()`)
	if err != nil {
		h.t.Fatal(err)
	}
	return items("book", 1)
}

// P3: orders that are done together compete as if one came after the other,
// and one that is refused takes nothing from the next.
func TestOrdersDoneTogetherDoNotShareAPiece(t *testing.T) {
	t.Parallel()
	h := open(t)
	first := h.order()
	firstReply := first.post("inventory", "reserve", first.command("reserve", wire.Action, 1), h.gate())
	// These wait behind the first, and are done in the order of their ids.
	var replies []<-chan wire.Reply
	cases := []struct {
		payload map[string]any
		reply   string
	}{
		{items("lamp", 5, "unicorn", 1), "failed out_of_stock"},
		{items("lamp", 7), "succeeded"},
		{items("lamp", 4), "failed out_of_stock"},
		{items("lamp", 3), "succeeded"},
	}
	for i, tc := range cases {
		o := order{harness: h, id: fmt.Sprintf("0198c5a0-0000-7000-8000-00000000000%d", i)}
		// Of two messages one is answered as in progress: the other has arrived.
		c := o.command("reserve", wire.Action, 1)
		a, b := o.post("inventory", "reserve", c, tc.payload), o.post("inventory", "reserve", c, tc.payload)
		var duplicate wire.Reply
		select {
		case duplicate = <-a:
			replies = append(replies, b)
		case duplicate = <-b:
			replies = append(replies, a)
		}
		want(t, "duplicate", text(duplicate), "in_progress")
	}
	if _, err := h.pool.Exec(t.Context(), `UPDATE gate SET open = true`); err != nil {
		t.Fatal(err)
	}
	want(t, "first", text(first.await(firstReply)), "succeeded")
	for i, tc := range cases {
		want(t, fmt.Sprint("order ", i), text(first.await(replies[i])), tc.reply)
	}
	want(t, "lamps", h.stock("lamp"), "0/10/0")
}

package shop_test

import (
	"sync"
	"testing"

	"github.com/skald-saga/skald/internal/wire"
)

func amount(account, amount string) map[string]string {
	return map[string]string{"account": account, "to": "somebody", "amount": amount, "currency": "EUR"}
}

func (h *harness) balance(account string) string {
	h.t.Helper()
	return one[string](h, `SELECT balance::text FROM bank.accounts WHERE id = $1`, account)
}

func TestATransferMovesMoney(t *testing.T) {
	t.Parallel()
	h := open(t)
	o := h.order()
	want(t, "at first", h.balance("alice")+" "+h.balance("bob")+" "+h.balance("carol"), "1000.00 1000.00 0.00")
	want(t, "debit", text(o.do("bank", "debit", 1, amount("alice", "12.50"))), "succeeded")
	want(t, "the same debit again", text(o.do("bank", "debit", 2, amount("alice", "12.50"))), "succeeded")
	want(t, "alice", h.balance("alice"), "987.50")
	want(t, "credit", text(o.do("bank", "credit", 1, amount("carol", "12.50"))), "succeeded")
	want(t, "the same credit again", text(o.do("bank", "credit", 2, amount("carol", "12.50"))), "succeeded")
	want(t, "carol", h.balance("carol"), "12.50")
	want(t, "put back", text(o.undo("bank", "put-back", "debit", wire.Succeeded)), "succeeded")
	want(t, "put back again", text(o.undo("bank", "put-back", "debit", wire.Succeeded)), "succeeded")
	want(t, "alice", h.balance("alice"), "1000.00")
	want(t, "put back before it was taken", text(h.order().undo("bank", "put-back", "debit", "unknown")), "succeeded")
	want(t, "alice", h.balance("alice"), "1000.00")
}

func TestTheBankRefusesForGood(t *testing.T) {
	t.Parallel()
	h := open(t)
	same := amount("alice", "1")
	same["to"] = "alice"
	other := amount("alice", "1")
	other["currency"] = "USD"
	for name, c := range map[string]struct {
		action  string
		payload map[string]string
		reply   string
	}{
		"more than there is":          {"debit", amount("alice", "1000.01"), "failed insufficient_funds"},
		"from an empty account":       {"debit", amount("carol", "0.0001"), "failed insufficient_funds"},
		"from nobody":                 {"debit", amount("mallory", "1"), "failed unknown_account"},
		"to nobody":                   {"credit", amount("mallory", "1"), "failed unknown_account"},
		"to oneself":                  {"debit", same, "failed same_account"},
		"another currency, taken":     {"debit", other, "failed currency_mismatch"},
		"another currency, given":     {"credit", other, "failed currency_mismatch"},
		"nothing":                     {"debit", amount("alice", "0.00"), "failed invalid_payload"},
		"less than nothing":           {"debit", amount("alice", "-1"), "failed invalid_payload"},
		"less than nothing, given":    {"credit", amount("alice", "-1"), "failed invalid_payload"},
		"what is no number":           {"debit", amount("alice", "1e3"), "failed invalid_payload"},
		"smaller than anything":       {"debit", amount("alice", "0.00001"), "failed invalid_payload"},
		"without an account":          {"debit", amount("", "1"), "failed invalid_payload"},
		"all that there is, but once": {"debit", amount("bob", "1000.00"), "succeeded"},
	} {
		want(t, name, text(h.order().do("bank", c.action, 1, c.payload)), c.reply)
	}
	want(t, "bob", h.balance("bob"), "0.00")
	want(t, "alice", h.balance("alice"), "1000.00")
}

// Transfers to and fro between the same accounts neither block each other nor
// make or lose money.
func TestMoneyIsConserved(t *testing.T) {
	t.Parallel()
	h := open(t)
	var all sync.WaitGroup
	for i := range 20 {
		all.Go(func() {
			from, to := "alice", "bob"
			if i%2 == 0 {
				from, to = to, from
			}
			o := h.order()
			o.do("bank", "debit", 1, amount(from, "300"))
			if i%3 == 0 {
				o.undo("bank", "put-back", "debit", wire.Succeeded)
			} else if one[int](h, `SELECT count(*) FROM bank.entries WHERE transfer_id = $1`, o.id) == 1 {
				o.do("bank", "credit", 1, amount(to, "300"))
			}
		})
	}
	all.Wait()
	want(t, "all balances", one[string](h, `SELECT sum(balance)::text FROM bank.accounts`), "2000.00")
	want(t, "all entries", one[string](h, `SELECT sum(amount)::text FROM bank.entries`), "0")
}

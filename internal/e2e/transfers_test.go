package e2e

import (
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/skald-saga/skald/internal/testkit"
)

// transfer asks for a transfer until it is answered.
func (s *system) transfer(key, from, to, amount string) string {
	s.t.Helper()
	body := fmt.Sprintf(`{"definition": "transfer", "input": {"from": %q, "to": %q, "amount": %q, "currency": "EUR"}}`, from, to, amount)
	for deadline := time.Now().Add(2 * time.Minute); time.Now().Before(deadline); pause(s.t.Context(), pace) {
		req, err := http.NewRequestWithContext(s.t.Context(), http.MethodPost, s.api+"/v1/sagas", strings.NewReader(body))
		if err != nil {
			s.t.Error(err)
			return ""
		}
		req.Header.Set("Content-Type", "application/json")
		req.Header.Set("Idempotency-Key", key)
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			continue
		}
		b, err := io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		var v struct{ ID string }
		if err == nil && resp.StatusCode/100 == 2 && json.Unmarshal(b, &v) == nil {
			return v.ID
		}
	}
	s.t.Errorf("transfer %s was not taken", key)
	return ""
}

// P3, P5: every transfer moves its money once or not at all, and none is made
// or lost, though every program is killed again and again, each request is
// made twice, and accounts run dry or do not exist.
func TestTransfersConserveMoneyWhateverIsKilled(t *testing.T) {
	t.Parallel()
	s := start(t, "skald")
	accounts := []string{"alice", "bob", "carol", "alice", "bob", "carol", "nobody"}
	const transfers = 120
	var all sync.WaitGroup
	for worker := range 4 {
		all.Go(func() {
			for i := worker; i < transfers; i += 4 {
				key, from, to := fmt.Sprint("t-", i), accounts[rand.IntN(len(accounts))], accounts[rand.IntN(len(accounts))]
				amount := fmt.Sprintf("%d.%02d", 50+rand.IntN(400), rand.IntN(100))
				first := s.transfer(key, from, to, amount)
				if again := s.transfer(key, from, to, amount); again != first {
					t.Errorf("P8: key %s made %s and %s", key, first, again)
				}
				pause(t.Context(), 30*time.Millisecond)
			}
		})
	}
	for i := range 9 {
		pause(t.Context(), 300*time.Millisecond)
		[]*process{s.server, s.relay, s.participants}[i%3].restart()
	}
	all.Wait()
	skald, shop := s.pool(s.skaldURL), s.pool(s.shopURL)
	testkit.Eventually(t, "every transfer has ended", 2*time.Minute, func() (bool, string) {
		open := s.query(skald, `SELECT count(*)::text FROM saga WHERE status NOT IN ('completed', 'compensated')`)
		return open == "0", open + " are open"
	})
	if n := s.query(skald, `SELECT count(*)::text FROM saga`); n != fmt.Sprint(transfers) {
		t.Errorf("%s sagas, want %d", n, transfers)
	}
	completed := s.query(skald, `SELECT coalesce(sum((input ->> 'amount')::numeric), 0)::text FROM saga WHERE status = 'completed'`)
	for what, c := range map[string]struct{ query, want string }{
		"the sum of all balances":          {`SELECT sum(balance)::text FROM bank.accounts`, "2000.00"},
		"money that is with nobody":        {`SELECT coalesce(sum(amount), 0)::numeric(9, 2)::text FROM bank.entries`, "0.00"},
		"money given, of what is complete": {`SELECT coalesce(sum(amount), 0)::text FROM bank.entries WHERE amount > 0`, completed},
		"transfers with one half":          {`SELECT count(*)::text FROM (SELECT FROM bank.entries GROUP BY transfer_id HAVING count(*) <> 2 OR sum(amount) <> 0) x`, "0"},
	} {
		if got := s.query(shop, c.query); got != c.want {
			t.Errorf("%s: %s, want %s", what, got, c.want)
		}
	}
	if completed == "0" {
		t.Error("no transfer was completed")
	}
}

package e2e

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/skald-saga/skald/internal/testkit"
	"github.com/skald-saga/skald/internal/wire"
)

// P11: with the relay away, the outbox fills and new sagas are refused, with a
// hint when to come again; replies and operators go on. When the relay is back,
// sagas are accepted by themselves.
func TestAFullOutboxRefusesOnlyNewSagas(t *testing.T) {
	t.Parallel()
	d := newDeskWith(t, "--max-outbox-rows", "5")
	d.relay = d.program("cmd/relay", "run", "--admin-addr", "", "--database-url", d.skaldURL, "--nats-url", d.nats.URL())
	d.relay.start()
	answered, cancelled := d.start(), d.start()
	first := d.command(answered, "do-a")
	d.command(cancelled, "do-a")
	d.relay.stop()

	start := func() *http.Response {
		resp, err := http.Post(d.api+"/v1/sagas", "application/json", strings.NewReader(`{"definition": "trip", "input": {}}`))
		if err != nil {
			t.Fatal(err)
		}
		return resp
	}
	testkit.Eventually(t, "a start is refused", 30*time.Second, func() (bool, string) {
		resp := start()
		defer func() { _ = resp.Body.Close() }()
		var p struct{ Code string }
		_ = json.NewDecoder(resp.Body).Decode(&p)
		return resp.StatusCode == http.StatusServiceUnavailable && p.Code == "overloaded" && resp.Header.Get("Retry-After") == "10", resp.Status + " " + p.Code
	})
	d.say(first, wire.Succeeded, `{}`)
	d.await(answered, "the reply counts", func(v tripView) bool { return v.Steps[0].Status == "succeeded" })
	if v := d.verb(cancelled, "cancel", `{"reason": "r"}`); v.Status != "compensating" {
		t.Errorf("cancelled: %+v", v)
	}

	d.relay.start()
	testkit.Eventually(t, "a start is accepted", 30*time.Second, func() (bool, string) {
		resp := start()
		defer func() { _ = resp.Body.Close() }()
		return resp.StatusCode == http.StatusCreated || resp.StatusCode == http.StatusAccepted, resp.Status
	})
	d.say(d.command(answered, "do-v"), wire.Succeeded, `{}`)
	d.say(d.command(answered, "do-r"), wire.Succeeded, `{}`)
	d.awaitStatus(answered, "completed")
	d.verifyHistories()
}

package e2e

import (
	"net/http"
	"strings"
	"testing"

	"github.com/nats-io/nats.go"

	"github.com/skald-saga/skald/internal/wire"
)

// A definition that is put while the server runs works at once, with a
// participant that nobody had heard of; what runs stays on its version.
func TestADefinitionThatIsPutNeedsNoRestart(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	old := d.start()
	put := func(text string) int {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPut, d.api+"/v1/definitions/trip", strings.NewReader(text))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Content-Type", "application/yaml")
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		return resp.StatusCode
	}
	other := strings.ReplaceAll(trip, "participant: desk", "participant: counter")
	if status := put(other); status != http.StatusCreated {
		t.Fatalf("put: %d", status)
	}
	counter := &desk{system: d.system, nc: d.nc, commands: make(chan *nats.Msg, 100)}
	counter.sit("counter")
	young := counter.start()
	for _, operation := range []string{"do-a", "do-v", "do-r"} {
		counter.say(counter.command(young, operation), wire.Succeeded, "{}")
		d.say(d.command(old, operation), wire.Succeeded, "{}")
	}
	counter.awaitStatus(young, "completed")
	d.awaitStatus(old, "completed")
	if status := put(other); status != http.StatusOK {
		t.Errorf("put again: %d", status)
	}
}

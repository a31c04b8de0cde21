package e2e

import (
	"strings"
	"testing"

	"github.com/skald-saga/skald/internal/testkit"
	"github.com/skald-saga/skald/internal/wire"
)

// P3, P10: a command that JetStream will never take does not leave its saga
// waiting for an answer that cannot come: it is undone, as if the participant
// had refused.
func TestASagaWhoseCommandCannotBePublishedIsUndone(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	d.call("PUT", "/v1/definitions/parcel", `{"name": "parcel", "steps": [
		{"name": "a", "participant": "desk", "action": "do-a", "compensation": "undo-a"},
		{"name": "v", "participant": "desk", "action": "do-v", "kind": "pivot", "payload": "[steps.a.pad, steps.a.pad, steps.a.pad]"}]}`)
	id := d.call("POST", "/v1/sagas", `{"definition": "parcel", "input": {}}`).ID
	d.say(d.command(id, "do-a"), wire.Succeeded, `{"pad": "`+strings.Repeat("x", 400<<10)+`"}`) // NATS takes one MiB
	d.say(d.command(id, "undo-a"), wire.Succeeded, `null`)
	d.awaitStatus(id, "compensated")

	pool := testkit.Pool(t, d.skaldURL)
	if got := d.query(pool, `SELECT count(*)::text FROM outbox_dead WHERE subject = 'skald.cmd.desk.do-v'`); got != "1" {
		t.Errorf("%s dead letters", got)
	}
	const q = `SELECT string_agg(e ->> 't' || ': ' || (e -> 'e' ->> 'code'), ', ') FROM saga_history, json_array_elements(entries) e WHERE saga_id = $1 AND e -> 'e' IS NOT NULL`
	if got := d.query(pool, q, id); got != "step-failed: undeliverable, compensating: undeliverable" {
		t.Errorf("its history has %q", got)
	}
}

package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/skald-saga/skald/internal/embedded"
	"github.com/skald-saga/skald/internal/testkit"
	"github.com/skald-saga/skald/internal/wire"
	"github.com/skald-saga/skald/migrations"
)

// Each operation is tried once: what fails needs an operator.
const trip = `
name: trip
steps:
  - {name: a, participant: desk, action: do-a, compensation: undo-a, retry: {max_attempts: 2}}
  - {name: v, participant: desk, action: do-v, kind: pivot, retry: {max_attempts: 1}}
  - {name: r, participant: desk, action: do-r, kind: retriable}
`

// desk is a participant whose answers the test gives, and an operator.
type desk struct {
	*system
	nc       *nats.Conn
	commands chan *nats.Msg
	held     []*nats.Msg
}

func newDesk(t *testing.T) *desk {
	t.Helper()
	return newDeskWith(t, "--with-relay")
}

// newDeskWith starts a server with those flags.
func newDeskWith(t *testing.T, flags ...string) *desk {
	t.Helper()
	s := &system{t: t, postgres: testkit.Cluster(t), nats: testkit.NATS(t)}
	s.skaldURL = s.postgres.URL("skald")
	if err := embedded.CreateDatabase(t.Context(), s.postgres.URL("postgres"), "skald"); err != nil {
		t.Fatal(err)
	}
	if err := migrations.Up(t.Context(), s.skaldURL); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "trip.yaml"), []byte(trip), 0o600); err != nil {
		t.Fatal(err)
	}
	addr := freeAddr(t)
	s.api = "http://" + addr
	s.server = s.program("cmd/server", append([]string{"serve", "--http-addr", addr, "--admin-addr", "", "--database-url", s.skaldURL,
		"--nats-url", s.nats.URL(), "--definitions", dir}, flags...)...)
	s.server.start()
	testkit.Eventually(t, "the API answers", 30*time.Second, func() (bool, string) {
		resp, err := http.Get(s.api + "/readyz")
		if err != nil {
			return false, err.Error()
		}
		_ = resp.Body.Close()
		return resp.StatusCode == http.StatusOK, resp.Status
	})
	d := &desk{system: s, nc: s.connect(), commands: make(chan *nats.Msg, 100)}
	d.sit("desk")
	return d
}

// sit takes a participant's commands from its consumer.
func (d *desk) sit(participant string) {
	d.t.Helper()
	js, err := jetstream.New(d.nc)
	if err != nil {
		d.t.Fatal(err)
	}
	var consumer jetstream.Consumer
	testkit.Eventually(d.t, "the participant has a consumer", 30*time.Second, func() (bool, string) {
		consumer, err = js.Consumer(d.t.Context(), wire.CommandsStream("skald"), participant)
		return err == nil, fmt.Sprint(err)
	})
	var once sync.Once
	taking, err := consumer.Consume(func(m jetstream.Msg) {
		if err := m.Ack(); err != nil {
			once.Do(func() { d.t.Error(err) })
		}
		d.commands <- &nats.Msg{Subject: m.Subject(), Header: m.Headers(), Data: m.Data()}
	})
	if err != nil {
		d.t.Fatal(err)
	}
	d.t.Cleanup(taking.Stop)
}

// command waits for the next command of one operation of a saga.
func (d *desk) command(id, operation string) *nats.Msg {
	d.t.Helper()
	mine := func(m *nats.Msg) bool {
		return strings.HasSuffix(m.Subject, "."+operation) && strings.HasPrefix(m.Header.Get(wire.HeaderEffectID), id+"/")
	}
	for i, m := range d.held {
		if mine(m) {
			d.held = append(d.held[:i], d.held[i+1:]...)
			return m
		}
	}
	limit := time.After(30 * time.Second)
	for {
		select {
		case m := <-d.commands:
			if mine(m) {
				return m
			}
			d.held = append(d.held, m)
		case <-limit:
			d.t.Fatalf("no command for %s of saga %s", operation, id)
		}
	}
}

func (d *desk) say(m *nats.Msg, outcome wire.Outcome, body string) {
	d.t.Helper()
	reply := nats.NewMsg(m.Header.Get(wire.HeaderReplyTo))
	reply.Header[wire.HeaderEffectID] = []string{m.Header.Get(wire.HeaderEffectID)}
	reply.Header[wire.HeaderOutcome] = []string{string(outcome)}
	reply.Data = []byte(body)
	if err := d.nc.PublishMsg(reply); err != nil {
		d.t.Fatal(err)
	}
}

// tripView is what the tests read of a saga.
type tripView struct {
	ID      string `json:"id"`
	Status  string `json:"status"`
	Paused  bool   `json:"paused"`
	Stale   int    `json:"stale_replies"`
	Actions []string
	Steps   []struct{ Status string }
	Links   struct {
		RestartedAs string `json:"restarted_as"`
	}
}

func (d *desk) call(method, path, body string) tripView {
	d.t.Helper()
	req, err := http.NewRequestWithContext(d.t.Context(), method, d.api+path, bytes.NewReader([]byte(body)))
	if err != nil {
		d.t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		d.t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	var v tripView
	if err := json.NewDecoder(resp.Body).Decode(&v); err != nil || resp.StatusCode/100 != 2 {
		d.t.Fatalf("%s %s: %s, %v", method, path, resp.Status, err)
	}
	return v
}

func (d *desk) start() string {
	d.t.Helper()
	return d.call("POST", "/v1/sagas", `{"definition": "trip", "input": {}}`).ID
}

func (d *desk) verb(id, action, body string) tripView {
	d.t.Helper()
	return d.call("POST", "/v1/sagas/"+id+"/"+action, body)
}

// await waits until the saga is as it should be.
func (d *desk) await(id, what string, is func(tripView) bool) {
	d.t.Helper()
	testkit.Eventually(d.t, what, 30*time.Second, func() (bool, string) {
		v := d.call("GET", "/v1/sagas/"+id, "")
		return is(v), fmt.Sprintf("%+v", v)
	})
}

func (d *desk) awaitStatus(id, status string) {
	d.t.Helper()
	d.await(id, "the saga is "+status, func(v tripView) bool { return v.Status == status })
}

// Every verb does through the API, Postgres and JetStream what it does to the
// state machine; histories fold to their states afterwards (P7).
func TestOperatorsHaveTheLastWord(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	for _, verb := range []struct {
		name string
		use  func(d *desk)
	}{
		{"retry", (*desk).retries}, {"resolve", (*desk).resolves}, {"pause and resume", (*desk).pauses},
		{"abandon", (*desk).abandons}, {"restart", (*desk).restarts}, {"pause of a participant", (*desk).pausesAll}, {"replies by hand", (*desk).repliesByHand},
	} {
		t.Log(verb.name)
		verb.use(d)
	}
	d.verifyHistories()
}

func (d *desk) retries() {
	id := d.start()
	first := d.command(id, "do-a")
	d.say(first, wire.Retry, `{"retry_after_ms": 3600000}`)
	d.await(id, "retry is allowed", func(v tripView) bool { return strings.Contains(fmt.Sprint(v.Actions), "retry") })
	d.verb(id, "retry", `{"reason": "now"}`)
	again := d.command(id, "do-a")
	if again.Header.Get(wire.HeaderEffectID) != first.Header.Get(wire.HeaderEffectID) || again.Header.Get(wire.HeaderAttempt) != "2" {
		d.t.Errorf("the retry carries %v", again.Header)
	}
	d.say(again, wire.Succeeded, `{}`)
	d.say(d.command(id, "do-v"), wire.Succeeded, `{}`)
	d.say(d.command(id, "do-r"), wire.Succeeded, `{}`)
	d.awaitStatus(id, "completed")
}

func (d *desk) resolves() {
	id := d.start()
	d.say(d.command(id, "do-a"), wire.Succeeded, `{}`)
	pivot := d.command(id, "do-v")
	d.say(pivot, wire.Retry, `{}`)
	d.awaitStatus(id, "stuck")
	const word = `{"phase": "action", "outcome": "succeeded", "reason": "it is in the books"}`
	d.verb(id, "steps/v/resolve", word)
	d.say(d.command(id, "do-r"), wire.Succeeded, `{}`)
	d.awaitStatus(id, "completed")
	d.say(pivot, wire.Failed, `{"code": "never"}`) // and yet it was not
	d.awaitStatus(id, "stuck")
	if v := d.verb(id, "steps/v/resolve", word); v.Status != "completed" {
		d.t.Errorf("resolved again, the saga is %s", v.Status)
	}
}

func (d *desk) pauses() {
	id := d.start()
	first := d.command(id, "do-a")
	if v := d.verb(id, "pause", `{}`); !v.Paused {
		d.t.Errorf("paused: %+v", v)
	}
	d.say(first, wire.Succeeded, `{}`)
	d.await(id, "the reply counts", func(v tripView) bool { return v.Steps[0].Status == "succeeded" && v.Steps[1].Status == "pending" })
	d.verb(id, "resume", `{}`)
	d.say(d.command(id, "do-v"), wire.Succeeded, `{}`)
	d.say(d.command(id, "do-r"), wire.Succeeded, `{}`)
	d.awaitStatus(id, "completed")
}

func (d *desk) abandons() {
	id := d.start()
	first := d.command(id, "do-a")
	d.verb(id, "abandon", `{"reason": "test data"}`)
	d.say(first, wire.Succeeded, `{}`)
	d.await(id, "the reply changes nothing", func(v tripView) bool { return v.Status == "abandoned" && v.Stale == 1 })
}

func (d *desk) restarts() {
	id := d.start()
	d.say(d.command(id, "do-a"), wire.Failed, `{"code": "full"}`)
	d.awaitStatus(id, "compensated")
	again := d.verb(id, "restart", `{}`).ID
	if other := d.verb(id, "restart", `{}`).ID; other != again || again == id {
		d.t.Errorf("restarted as %s and as %s", again, other)
	}
	d.say(d.command(again, "do-a"), wire.Succeeded, `{}`)
	d.say(d.command(again, "do-v"), wire.Succeeded, `{}`)
	d.say(d.command(again, "do-r"), wire.Succeeded, `{}`)
	d.awaitStatus(again, "completed")
	if v := d.call("GET", "/v1/sagas/"+id, ""); v.Links.RestartedAs != "/v1/sagas/"+again {
		d.t.Errorf("the old saga links to %q", v.Links.RestartedAs)
	}
}

// pausesAll pauses the participant of all sagas, and their definition.
func (d *desk) pausesAll() {
	id := d.start()
	first := d.command(id, "do-a")
	for _, target := range []string{"participants/desk", "definitions/trip"} {
		d.call("POST", "/v1/"+target+"/pause", `{"reason": "the desk moves"}`)
	}
	d.say(first, wire.Succeeded, `{}`)
	held := d.start()
	d.await(id, "the next step is held", func(v tripView) bool { return v.Steps[0].Status == "succeeded" && v.Steps[1].Status == "held" })
	d.await(held, "a new saga waits", func(v tripView) bool { return v.Status == "running" && v.Steps[0].Status == "held" })
	d.call("POST", "/v1/participants/desk/resume", `{}`)
	d.await(held, "the definition is still paused", func(v tripView) bool { return v.Steps[0].Status == "held" })
	d.call("POST", "/v1/definitions/trip/resume", `{}`)
	d.say(d.command(id, "do-v"), wire.Succeeded, `{}`)
	d.say(d.command(id, "do-r"), wire.Succeeded, `{}`)
	d.awaitStatus(id, "completed")
	d.command(held, "do-a")
}

// A batch operation goes on where it was when its server was killed: each saga
// is done once.
func TestABatchOperationSurvivesKillingTheServer(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	const n = 300
	for range n {
		d.start()
	}
	id := d.call("POST", "/v1/batch-operations", `{"action": "pause", "filter": {"definition": "trip"}, "reason": "the desk moves"}`).ID
	pool := d.pool(d.skaldURL)
	items := func() string {
		return d.query(pool, `SELECT count(*)::text FROM batch_item WHERE outcome = 'applied'`)
	}
	testkit.Eventually(t, "it has begun", 30*time.Second, func() (bool, string) { got := items(); return got != "0", got })
	d.server.kill()
	if got := items(); got == fmt.Sprint(n) {
		t.Fatal("it was over before the server was killed")
	}
	d.server.start()
	testkit.Eventually(t, "it is completed", 90*time.Second, func() (bool, string) {
		got := d.query(pool, `SELECT status FROM batch_operation WHERE id = $1`, id)
		return got == "completed", got
	})
	if got := items(); got != fmt.Sprint(n) {
		t.Errorf("%s of %d sagas were done", got, n)
	}
	const once = `SELECT count(*)::text FROM saga s WHERE (SELECT count(*) FROM saga_history h, json_array_elements(h.entries) e WHERE h.saga_id = s.id AND e ->> 't' = 'paused') = 1`
	if got := d.query(pool, once); got != fmt.Sprint(n) {
		t.Errorf("%s of %d sagas were paused once", got, n)
	}
	d.verifyHistories()
}

// repliesByHand gives by HTTP the reply that could not be read from NATS.
func (d *desk) repliesByHand() {
	id := d.start()
	first := d.command(id, "do-a")
	d.say(first, "done", `{}`) // no such outcome
	pool := d.pool(d.skaldURL)
	testkit.Eventually(d.t, "it is a dead letter", 30*time.Second, func() (bool, string) {
		got := d.query(pool, `SELECT count(*)::text FROM dead_letter`)
		return got == "1", got
	})
	d.call("POST", "/v1/replies", fmt.Sprintf(`{"effect_id": %q, "outcome": "succeeded", "result": {}}`, first.Header.Get(wire.HeaderEffectID)))
	d.say(d.command(id, "do-v"), wire.Succeeded, `{}`)
	d.say(d.command(id, "do-r"), wire.Succeeded, `{}`)
	d.awaitStatus(id, "completed")
	req, err := http.NewRequestWithContext(d.t.Context(), http.MethodDelete, d.api+"/v1/dead-letters/reply-1", http.NoBody)
	if err != nil {
		d.t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		d.t.Fatal(err)
	}
	_ = resp.Body.Close()
	if got := d.query(pool, `SELECT count(*)::text FROM dead_letter`); resp.StatusCode != http.StatusNoContent || got != "0" {
		d.t.Errorf("deleting gives %s and leaves %s", resp.Status, got)
	}
}

package coordinator_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"

	"github.com/skald-saga/skald/internal/coordinator"
	"github.com/skald-saga/skald/internal/saga"
	"github.com/skald-saga/skald/internal/wire"
)

// startOf starts a saga of another definition of three steps.
func (f *fixture) startOf(events string) coordinator.Saga {
	f.t.Helper()
	text := strings.Replace(threeSteps, "kind: pivot", "kind: pivot, retry: {max_attempts: 1}", 1)
	text = strings.Replace(text, "name: order", "name: "+events+"\nevents: "+events, 1)
	if events == "" {
		text = strings.Replace(threeSteps, "name: order", "name: default", 1)
	}
	def, err := saga.Parse([]byte(text))
	if err != nil {
		f.t.Fatal(err)
	}
	if err := f.c.Register(f.t.Context(), def); err != nil {
		f.t.Fatal(err)
	}
	s, err := f.c.Start(f.t.Context(), coordinator.StartRequest{Definition: def.Name, Input: json.RawMessage(`{}`), Trace: traced})
	if err != nil {
		f.t.Fatal(err)
	}
	return s.Saga
}

var traced = wire.Trace{Parent: "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", State: "a=1"}

// outboxRow is a message that tells of a saga.
type outboxRow struct {
	Subject string
	Key     string
	Headers map[string]string
	Payload []byte
}

func (f *fixture) events() []outboxRow {
	f.t.Helper()
	rows, err := f.pool.Query(f.t.Context(), `SELECT subject, key, headers, payload FROM outbox WHERE subject LIKE 'skald.evt.%' ORDER BY seq`)
	if err != nil {
		f.t.Fatal(err)
	}
	events, err := pgx.CollectRows(rows, pgx.RowToStructByPos[outboxRow])
	if err != nil {
		f.t.Fatal(err)
	}
	return events
}

// decline lets the second step of a saga fail, so that it is undone.
func (f *fixture) decline() {
	f.t.Helper()
	f.answer(f.only(), wire.Succeeded)
	f.answer(f.only(), wire.Failed)
	f.answer(f.only(), wire.Succeeded)
}

func TestADefinitionSaysHowMuchOfItsSagasIsTold(t *testing.T) {
	t.Parallel()
	for events, want := range map[string]string{
		"none":     "",
		"":         "compensated",
		"terminal": "compensated",
		"all": "started command-issued step-succeeded command-issued step-failed compensating command-issued " +
			"step-compensated compensated",
	} {
		t.Run("events "+events, func(t *testing.T) {
			t.Parallel()
			f := newFixture(t)
			s := f.startOf(events)
			f.decline()
			var types []string
			for _, e := range f.events() {
				types = append(types, e.Subject[strings.LastIndex(e.Subject, ".")+1:])
				if want := "skald.evt." + s.Definition + "."; !strings.HasPrefix(e.Subject, want) || e.Key != s.ID.String() {
					t.Errorf("subject %s, key %s", e.Subject, e.Key)
				}
			}
			if diff := cmp.Diff(want, strings.Join(types, " ")); diff != "" {
				t.Errorf("events: -want +got\n%s", diff)
			}
		})
	}
}

// P1: the event that a saga has ended is written with its end, and says why.
func TestTheEventOfAnEndSaysHowAndWhy(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	s := f.startOf("terminal")
	f.decline()
	ended := f.get(s.ID)
	events := f.events()
	if len(events) != 1 {
		t.Fatalf("%d events, want 1: %v", len(events), events)
	}
	if n := f.count(`SELECT count(*) FROM outbox o JOIN saga s ON o.xid = s.xmin::text::xid8 WHERE o.subject LIKE '%.compensated'`); n != 1 {
		t.Error("the event was not written in the transaction that ended the saga")
	}
	wantHeaders := map[string]string{
		"ce-type": "skald.event.v1", "ce-source": "/skald", "content-type": "application/json", "ce-subject": s.ID.String(),
		"traceparent": traced.Parent, "tracestate": traced.State,
	}
	if diff := cmp.Diff(wantHeaders, events[0].Headers); diff != "" {
		t.Errorf("headers: -want +got\n%s", diff)
	}
	var got map[string]any
	if err := json.Unmarshal(events[0].Payload, &got); err != nil {
		t.Fatal(err)
	}
	want := map[string]any{
		"saga_id": s.ID.String(), "definition": "terminal", "definition_version": 1.0, "version": float64(ended.Version),
		"type": "compensated", "status": "compensated", "at": f.clock.Now().Format("2006-01-02T15:04:05Z07:00"),
		"error": map[string]any{"code": "card_declined", "message": "no", "step": "charge"},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("body: -want +got\n%s", diff)
	}
}

// The relay is woken for an event as for a command.
func TestAnEventThatComesAloneWakesTheRelay(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	var woken atomic.Int32
	c := f.coordinator(func(cfg *coordinator.Config) { cfg.Wake = func() { woken.Add(1) } })
	f.startOf("terminal")
	f.answer(f.only(), wire.Succeeded)
	f.answer(f.only(), wire.Succeeded)
	if err := c.HandleReplies(t.Context(), []coordinator.Delivery{reply(f.only(), wire.Succeeded)}); err != nil {
		t.Fatal(err)
	}
	if len(f.events()) != 1 || woken.Load() != 1 {
		t.Errorf("%d events, woken %d times", len(f.events()), woken.Load())
	}
}

// A stuck saga waits for a person: who listens for ends hears of it too.
func TestAStuckSagaIsTold(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.startOf("terminal")
	f.answer(f.only(), wire.Succeeded)
	f.answer(f.only(), wire.Succeeded)
	f.answer(f.only(), wire.Retry) // the pivot's only attempt
	events := f.events()
	if len(events) != 1 || events[0].Subject != "skald.evt.terminal.stuck" || !strings.Contains(string(events[0].Payload), `"error":{"code":"retry"`) {
		t.Errorf("events: %v", events)
	}
}

// Every message of a saga carries the trace that it was started with, and one
// that was started without carries none.
func TestEveryMessageOfASagaCarriesItsTrace(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.startOf("all")
	f.decline()
	if n := f.count(`SELECT count(*) FROM outbox WHERE headers->>'traceparent' = $1 AND headers->>'tracestate' = $2`, traced.Parent, traced.State); n != 12 {
		t.Errorf("%d messages carry the trace, want 3 commands and 9 events", n)
	}
	// A saga does not wait for those who listen.
	if n := f.count(`SELECT count(*) FROM outbox e JOIN outbox c USING (key, xid)
		WHERE e.subject LIKE '%.evt.%' AND c.subject LIKE '%.cmd.%' AND e.seq < c.seq`); n != 0 {
		t.Errorf("%d events go before commands of their transaction", n)
	}
	if n := f.count(`SELECT count(*) FROM outbox`); n != 12 {
		t.Errorf("%d messages in all", n)
	}
	f.start()
	f.answer(f.only(), wire.Succeeded)
	if n := f.count(`SELECT count(*) FROM outbox WHERE headers::jsonb ? 'traceparent' AND headers->>'traceparent' IS DISTINCT FROM $1`, traced.Parent); n != 0 {
		t.Error("a saga without a trace has got one")
	}
	if n := f.count(`SELECT count(*) FROM outbox WHERE NOT headers::jsonb ? 'traceparent'`); n != 2 {
		t.Errorf("%d messages without a trace, want the 2 commands: %s", n, fmt.Sprint(f.events()))
	}
}

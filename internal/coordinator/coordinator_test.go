package coordinator_test

import (
	"context"
	"encoding/json"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/skald-saga/skald/internal/coordinator"
	"github.com/skald-saga/skald/internal/saga"
	"github.com/skald-saga/skald/internal/testkit"
	"github.com/skald-saga/skald/internal/wire"
)

func TestMain(m *testing.M) { testkit.Main(m) }

// clock is a clock that tests move.
type clock struct {
	mu  sync.Mutex
	now time.Time
}

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

// fixture is a coordinator at work on a database of its own, and a participant
// whose answers the test gives.
type fixture struct {
	t     *testing.T
	pool  *pgxpool.Pool
	c     *coordinator.Coordinator
	clock *clock
	seen  int64 // outbox rows up to here were taken
}

const threeSteps = `
name: order
deadline: 1h
steps:
  - {name: reserve, participant: inventory, action: reserve, compensation: release, timeout: 10s, retry: {max_attempts: 2, initial: 1s, max: 1s}}
  - {name: charge, participant: payment, action: charge, compensation: refund, timeout: 10s, retry: {max_attempts: 2, initial: 1s, max: 1s}}
  - {name: commit, participant: inventory, action: commit, kind: pivot, timeout: 10s}
`

func newFixture(t *testing.T) *fixture {
	t.Helper()
	f := &fixture{t: t, pool: testkit.Postgres(t), clock: &clock{now: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)}}
	f.c = f.coordinator(nil)
	return f
}

// coordinator returns one more coordinator at work on the fixture's database;
// it stops with the test.
func (f *fixture) coordinator(change func(*coordinator.Config)) *coordinator.Coordinator {
	f.t.Helper()
	cfg := coordinator.Config{Pool: f.pool, Log: testkit.Log(f.t), Now: f.clock.Now}
	if change != nil {
		change(&cfg)
	}
	c := coordinator.New(cfg)
	def, err := saga.Parse([]byte(threeSteps))
	if err != nil {
		f.t.Fatal(err)
	}
	if err := c.Register(f.t.Context(), def); err != nil {
		f.t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- c.Run(ctx) }()
	f.t.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			f.t.Error(err)
		}
	})
	return c
}

func (f *fixture) start() coordinator.Saga {
	f.t.Helper()
	s, err := f.c.Start(f.t.Context(), coordinator.StartRequest{Definition: "order", Input: json.RawMessage(`{"n": 1}`)})
	if err != nil {
		f.t.Fatal(err)
	}
	return s.Saga
}

func (f *fixture) get(id uuid.UUID) coordinator.Saga {
	f.t.Helper()
	s, err := f.c.Get(f.t.Context(), id)
	if err != nil {
		f.t.Fatal(err)
	}
	return s
}

// commands returns the commands written since it was last asked.
func (f *fixture) commands() []wire.Command {
	f.t.Helper()
	type message struct {
		Seq     int64
		Subject string
		Headers map[string]string
		Payload []byte
	}
	rows, err := f.pool.Query(f.t.Context(), `SELECT seq, subject, headers, payload FROM outbox WHERE seq > $1 AND subject LIKE 'skald.cmd.%' ORDER BY seq`, f.seen)
	if err != nil {
		f.t.Fatal(err)
	}
	messages, err := pgx.CollectRows(rows, pgx.RowToStructByPos[message])
	if err != nil {
		f.t.Fatal(err)
	}
	var commands []wire.Command
	for _, m := range messages {
		h := map[string][]string{}
		for k, v := range m.Headers {
			h[k] = []string{v}
		}
		c, err := wire.DecodeCommand(m.Subject, h, m.Payload)
		if err != nil {
			f.t.Fatal(err)
		}
		commands, f.seen = append(commands, c), m.Seq
	}
	return commands
}

// only returns the one command written since commands were last asked for.
func (f *fixture) only() wire.Command {
	f.t.Helper()
	commands := f.commands()
	if len(commands) != 1 {
		f.t.Fatalf("%d commands were written, want 1: %v", len(commands), commands)
	}
	return commands[0]
}

// answer replies to a command.
func (f *fixture) answer(c wire.Command, outcome wire.Outcome) {
	f.t.Helper()
	f.handle(reply(c, outcome))
}

func (f *fixture) handle(deliveries ...coordinator.Delivery) {
	f.t.Helper()
	if err := f.c.HandleReplies(f.t.Context(), deliveries); err != nil {
		f.t.Fatal(err)
	}
}

func reply(c wire.Command, outcome wire.Outcome) coordinator.Delivery {
	r := wire.Reply{EffectID: c.EffectID, Attempt: c.Attempt, Outcome: outcome}
	switch outcome {
	case wire.Succeeded:
		r.Body = json.RawMessage(`{"id": "r-1"}`)
	case wire.Failed:
		r.Failure = &wire.Failure{Code: "card_declined", Message: "no"}
	}
	return coordinator.Delivery{Reply: r, Subject: c.ReplyTo, Headers: r.Header(), Body: r.Payload()}
}

// published tells the database that a relay has published everything.
func (f *fixture) published() {
	f.t.Helper()
	if _, err := f.pool.Exec(f.t.Context(), `UPDATE outbox_lane SET snap_from = pg_current_snapshot()`); err != nil {
		f.t.Fatal(err)
	}
}

func (f *fixture) count(sql string, args ...any) int {
	f.t.Helper()
	var n int
	if err := f.pool.QueryRow(f.t.Context(), sql, args...).Scan(&n); err != nil {
		f.t.Fatal(err)
	}
	return n
}

// verifyHistory checks P7 for every saga of the database.
func (f *fixture) verifyHistory() {
	f.t.Helper()
	n, err := f.c.Verify(f.t.Context(), func(flaw coordinator.Flaw) { f.t.Errorf("saga %s: %s", flaw.SagaID, flaw.Reason) })
	if err != nil || n == 0 {
		f.t.Fatalf("verified %d sagas: %v", n, err)
	}
}

package participant_test

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/skald-saga/skald/internal/bus"
	"github.com/skald-saga/skald/internal/embedded"
	"github.com/skald-saga/skald/internal/testkit"
	"github.com/skald-saga/skald/internal/wire"
	"github.com/skald-saga/skald/participant"
)

func TestMain(m *testing.M) { testkit.Main(m) }

const service = "works"

// world is a database, a JetStream server and the engine's side of the wire.
// The table effects has a row for each effect that handlers had: no key keeps
// doubles out.
type world struct {
	t    *testing.T
	pool *pgxpool.Pool
	nats *embedded.NATS
	nc   *nats.Conn // the engine's
	js   jetstream.JetStream

	mu      sync.Mutex
	waiting map[string]chan wire.Reply // by the command's message id
}

func open(t *testing.T) *world {
	t.Helper()
	w := &world{t: t, pool: testkit.Pool(t, testkit.EmptyDatabaseURL(t)+"&pool_max_conns=12"), nats: testkit.NATS(t), waiting: map[string]chan wire.Reply{}}
	if err := participant.Install(t.Context(), w.pool); err != nil {
		t.Fatal(err)
	}
	if _, err := w.pool.Exec(t.Context(), `CREATE TABLE effects (effect_id text, what text)`); err != nil {
		t.Fatal(err)
	}
	w.nc = w.connect()
	js, err := jetstream.New(w.nc)
	if err != nil {
		t.Fatal(err)
	}
	w.js = js
	w.ensure(30 * time.Second)
	return w
}

func (w *world) connect() *nats.Conn {
	w.t.Helper()
	nc, err := nats.Connect(w.nats.URL(), nats.MaxReconnects(-1), nats.ReconnectWait(20*time.Millisecond), nats.ReconnectJitter(0, 0))
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(nc.Close)
	return nc
}

// ensure makes streams and consumers as Skald does, but for the time after
// which an unacknowledged command comes again, and listens to replies.
func (w *world) ensure(ackWait time.Duration) {
	w.t.Helper()
	ctx := w.t.Context()
	if err := (bus.Topology{Prefix: "skald"}).Ensure(ctx, w.js); err != nil {
		w.t.Fatal(err)
	}
	_, err := w.js.CreateOrUpdateConsumer(ctx, "SKALD_COMMANDS", jetstream.ConsumerConfig{
		Durable: service, FilterSubject: "skald.cmd." + service + ".>", AckPolicy: jetstream.AckExplicitPolicy, AckWait: ackWait, MaxDeliver: -1,
	})
	if err != nil {
		w.t.Fatal(err)
	}
	w.listen()
}

// listen receives replies as the engine does: what JetStream drops as a
// duplicate does not arrive.
func (w *world) listen() {
	w.t.Helper()
	consumer, err := w.js.Consumer(w.t.Context(), "SKALD_REPLIES", bus.EngineConsumer)
	if err != nil {
		w.t.Fatal(err)
	}
	cc, err := consumer.Consume(func(m jetstream.Msg) {
		defer func() { _ = m.Ack() }()
		r, err := wire.DecodeReply(m.Headers(), m.Data())
		if err != nil {
			w.t.Errorf("reply cannot be read: %v", err)
			return
		}
		id, _, _ := strings.Cut(r.MsgID, "/")
		w.mu.Lock()
		defer w.mu.Unlock()
		if ch := w.waiting[id]; ch != nil {
			ch <- r
		}
	})
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(cc.Stop)
}

// run starts a participant and returns what stops it and waits for its end.
func (w *world) run(cfg participant.Config, register func(*participant.Participant)) (stop func()) {
	w.t.Helper()
	cfg.Service, cfg.Pool, cfg.Log = service, w.pool, testkit.Log(w.t)
	if cfg.NATS == nil {
		cfg.NATS = w.connect()
	}
	p, err := participant.New(cfg)
	if err != nil {
		w.t.Fatal(err)
	}
	register(p)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- p.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			w.t.Error(err)
		}
	})
	w.t.Cleanup(stop)
	return stop
}

// works registers "do" and "undo", which write rows and count their calls.
func (w *world) works(cfg participant.Config) *calls {
	var n calls
	w.run(cfg, n.register)
	return &n
}

// calls counts what handlers were called for. Handlers answer with the number
// of their call.
type calls struct {
	do, undo atomic.Int32
	fail     func(what string) error // after the row was written; nil: never
}

func (n *calls) register(p *participant.Participant) {
	p.Step("do", "undo", participant.Handlers{
		Do: func(ctx context.Context, tx pgx.Tx, c participant.Command) (any, error) {
			return n.do.Add(1), n.write(ctx, tx, c.EffectID, "do")
		},
		Undo: func(ctx context.Context, tx pgx.Tx, c participant.Command) (any, error) {
			return n.undo.Add(1), n.write(ctx, tx, c.Compensates, "undo")
		},
	})
}

func (n *calls) write(ctx context.Context, tx pgx.Tx, effect, what string) error {
	if _, err := tx.Exec(ctx, `INSERT INTO effects VALUES ($1, $2)`, effect, what); err != nil {
		return err
	}
	if n.fail != nil {
		return n.fail(what)
	}
	return nil
}

// step is a step of a saga, seen by the engine.
type step struct {
	*world
	saga string
}

func (w *world) step() step { return step{world: w, saga: uuid.NewString()} }

func (s step) id(phase wire.Phase) wire.EffectID {
	return wire.EffectID{Saga: s.saga, Step: "a-step", Phase: phase, Generation: 1}
}

// action is the step's command; each call is a new message.
func (s step) action(change ...func(*wire.Command)) wire.Command {
	return s.command("do", wire.Action, change)
}

// compensation is the command that undoes the action.
func (s step) compensation(outcome wire.Outcome, change ...func(*wire.Command)) wire.Command {
	c := s.command("undo", wire.Compensation, change)
	compensates := s.id(wire.Action)
	c.Compensates, c.ActionOutcome = &compensates, outcome
	return c
}

func (s step) command(operation string, phase wire.Phase, change []func(*wire.Command)) wire.Command {
	c := wire.Command{
		MsgID: uuid.NewString(), Subject: wire.CommandSubject("skald", service, operation), EffectID: s.id(phase), Saga: s.saga,
		Attempt: 1, ReplyTo: wire.ReplySubject("skald", 0), EffectTime: time.Now(), Payload: []byte(`{}`),
	}
	for _, f := range change {
		f(&c)
	}
	return c
}

// rows is how often the step's effects happened, as "do/undo".
func (s step) rows() string {
	s.t.Helper()
	const q = `SELECT count(*) FILTER (WHERE what = 'do') || '/' || count(*) FILTER (WHERE what = 'undo') FROM effects WHERE effect_id = $1`
	var n string
	if err := s.pool.QueryRow(context.Background(), q, s.id(wire.Action).String()).Scan(&n); err != nil {
		s.t.Fatal(err)
	}
	return n
}

// inbox is what the inbox holds of an effect: its status, or "".
func (s step) inbox(phase wire.Phase) string {
	s.t.Helper()
	var status string
	err := s.pool.QueryRow(context.Background(), `SELECT coalesce(max(status), '') FROM skald_inbox WHERE effect_id = $1`, s.id(phase).String()).Scan(&status)
	if err != nil {
		s.t.Fatal(err)
	}
	return status
}

// send publishes a command and waits for its first reply.
func (w *world) send(c wire.Command) wire.Reply {
	w.t.Helper()
	return w.await(c, w.post(c))
}

func (w *world) await(c wire.Command, replies <-chan wire.Reply) wire.Reply {
	w.t.Helper()
	select {
	case r := <-replies:
		return r
	case <-time.After(30 * time.Second):
		w.t.Fatalf("no reply to %s on %s", c.EffectID, c.Subject)
		return wire.Reply{}
	}
}

// post publishes a command and returns where its replies arrive.
func (w *world) post(c wire.Command) <-chan wire.Reply {
	w.t.Helper()
	replies := make(chan wire.Reply, 64)
	w.mu.Lock()
	w.waiting[c.MsgID] = replies
	w.mu.Unlock()
	if _, err := w.js.PublishMsg(context.Background(), message(w.t, c)); err != nil {
		w.t.Fatal(err)
	}
	return replies
}

// twice posts a command as two messages and waits until one of them is
// answered as in progress: the other has arrived, and is at work or waits for
// it. It returns where the other's reply will arrive.
func (w *world) twice(c wire.Command) <-chan wire.Reply {
	w.t.Helper()
	again := c
	again.MsgID = uuid.NewString()
	a, b := w.post(c), w.post(again)
	select {
	case r := <-a:
		want(w.t, "reply to a duplicate", text(r), "in_progress")
		return b
	case r := <-b:
		want(w.t, "reply to a duplicate", text(r), "in_progress")
		return a
	case <-time.After(30 * time.Second):
		w.t.Fatalf("no reply to %s", c.EffectID)
		return nil
	}
}

// opener returns what closes ch, which also happens when the test ends: a
// handler that waits for it must not keep the participant from stopping.
func (w *world) opener(ch chan bool) func() {
	open := sync.OnceFunc(func() { close(ch) })
	w.t.Cleanup(open)
	return open
}

func message(t *testing.T, c wire.Command) *nats.Msg {
	t.Helper()
	var headers map[string]string
	if err := json.Unmarshal(c.AppendHeaders(nil), &headers); err != nil {
		t.Fatal(err)
	}
	m := &nats.Msg{Subject: c.Subject, Header: nats.Header{wire.HeaderMsgID: {c.MsgID}}, Data: c.Payload}
	for name, value := range headers {
		m.Header[name] = []string{value}
	}
	return m
}

// awaitLockWait waits until n sessions of the database wait for a lock.
func (w *world) awaitLockWait(n int) {
	w.t.Helper()
	testkit.Eventually(w.t, "a session waits for a lock", 10*time.Second, func() (bool, string) {
		var waiting int
		const q = `SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'`
		err := w.pool.QueryRow(context.Background(), q).Scan(&waiting)
		return err == nil && waiting >= n, fmt.Sprint(waiting, " wait, ", err)
	})
}

// pending is how many commands are in the stream, not yet acknowledged.
func (w *world) pending() uint64 {
	w.t.Helper()
	s, err := w.js.Stream(context.Background(), "SKALD_COMMANDS")
	if err != nil {
		w.t.Fatal(err)
	}
	return s.CachedInfo().State.Msgs
}

func (w *world) awaitAcknowledged() {
	w.t.Helper()
	testkit.Eventually(w.t, "all commands are acknowledged", 20*time.Second, func() (bool, string) {
		n := w.pending()
		return n == 0, fmt.Sprint(n, " are left")
	})
}

// text is a reply in a few words: outcome, failure code, result.
func text(r wire.Reply) string {
	s := string(r.Outcome)
	if r.Failure != nil {
		s += " " + r.Failure.Code
	}
	if r.Body != nil {
		s += " " + string(r.Body)
	}
	return s
}

func want[T comparable](t *testing.T, what string, got, want T) {
	t.Helper()
	if got != want {
		t.Errorf("%s: got %v, want %v", what, got, want)
	}
}

package shop_test

import (
	"context"
	"encoding/json"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/skald-saga/skald/examples/order/shop"
	"github.com/skald-saga/skald/internal/bus"
	"github.com/skald-saga/skald/internal/testkit"
	"github.com/skald-saga/skald/internal/wire"
)

func TestMain(m *testing.M) { testkit.Main(m) }

// harness is a running shop and an engine's side of the conversation with it.
type harness struct {
	t    *testing.T
	pool *pgxpool.Pool
	js   jetstream.JetStream

	mu      sync.Mutex
	waiting map[string]chan wire.Reply // by command's message id
}

func open(t *testing.T) *harness {
	t.Helper()
	pool := testkit.Pool(t, testkit.EmptyDatabaseURL(t)+"&pool_max_conns=20")
	if err := shop.Install(t.Context(), pool); err != nil {
		t.Fatal(err)
	}
	nc, err := nats.Connect(testkit.NATS(t).URL())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	topology := bus.Topology{Prefix: "skald", Participants: []string{"inventory", "payment", "shipping", "bank"}}
	if err := topology.Ensure(t.Context(), js); err != nil {
		t.Fatal(err)
	}
	h := &harness{t: t, pool: pool, js: js, waiting: map[string]chan wire.Reply{}}
	h.listen()
	ctx, stop := context.WithCancel(context.Background())
	stopped := make(chan error, 1)
	go func() { stopped <- shop.Run(ctx, shop.Config{Pool: pool, NATS: nc, Log: testkit.Log(t)}) }()
	t.Cleanup(func() {
		stop()
		if err := <-stopped; err != nil {
			t.Error(err)
		}
	})
	return h
}

func (h *harness) listen() {
	consumer, err := h.js.Consumer(h.t.Context(), wire.RepliesStream("skald"), bus.EngineConsumer)
	if err != nil {
		h.t.Fatal(err)
	}
	cc, err := consumer.Consume(func(m jetstream.Msg) {
		defer func() { _ = m.Ack() }()
		r, err := wire.DecodeReply(m.Headers(), m.Data())
		if err != nil {
			h.t.Errorf("reply cannot be read: %v", err)
			return
		}
		id := r.MsgID[:36] // the SDK derives it from the command's, which is a UUID here
		h.mu.Lock()
		defer h.mu.Unlock()
		if ch := h.waiting[id]; ch != nil {
			ch <- r
		}
	})
	if err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() { cc.Stop(); <-cc.Closed() })
}

// order is a saga as the shop sees it.
type order struct {
	*harness
	id string
}

func (h *harness) order() order { return order{harness: h, id: uuid.NewString()} }

// do sends one attempt of a step's action and waits for its reply.
func (o order) do(participant, action string, attempt int, payload any) wire.Reply {
	o.t.Helper()
	return o.await(o.post(participant, action, o.command(action, wire.Action, attempt), payload))
}

// undo sends one attempt of the compensation of an action.
func (o order) undo(participant, compensation, action string, outcome wire.Outcome) wire.Reply {
	o.t.Helper()
	return o.await(o.postUndo(participant, compensation, action, outcome))
}

func (o order) postUndo(participant, compensation, action string, outcome wire.Outcome) <-chan wire.Reply {
	o.t.Helper()
	c := o.command(action, wire.Compensation, 1)
	compensates := o.command(action, wire.Action, 1).EffectID
	c.Compensates, c.ActionOutcome = &compensates, outcome
	return o.post(participant, compensation, c, nil)
}

func (o order) command(step string, phase wire.Phase, attempt int) wire.Command {
	return wire.Command{
		EffectID: wire.EffectID{Saga: o.id, Step: step, Phase: phase, Generation: 1}, Saga: o.id, Attempt: attempt,
		ReplyTo: wire.ReplySubject("skald", 0), EffectTime: time.Now(),
	}
}

func (o order) await(replies <-chan wire.Reply) wire.Reply {
	o.t.Helper()
	select {
	case r := <-replies:
		return r
	case <-time.After(30 * time.Second):
		o.t.Errorf("no reply to order %s", o.id)
		return wire.Reply{}
	}
}

// post publishes a command and returns where its replies will be.
func (o order) post(participant, operation string, c wire.Command, payload any) <-chan wire.Reply {
	o.t.Helper()
	body, err := json.Marshal(payload)
	if err != nil {
		o.t.Error(err)
	}
	id := uuid.NewString()
	replies := make(chan wire.Reply, 16)
	o.mu.Lock()
	o.waiting[id] = replies
	o.mu.Unlock()
	var headers map[string]string
	if err := json.Unmarshal(c.AppendHeaders(nil), &headers); err != nil {
		o.t.Error(err)
	}
	msg := nats.NewMsg(wire.CommandSubject("skald", participant, operation))
	for name, value := range headers {
		msg.Header[name] = []string{value}
	}
	msg.Header[wire.HeaderMsgID], msg.Data = []string{id}, body
	if _, err := o.js.PublishMsg(context.Background(), msg); err != nil {
		o.t.Error(err)
	}
	return replies
}

// text is a reply in one line, for comparisons.
func text(r wire.Reply) string {
	if r.Failure != nil {
		return string(r.Outcome) + " " + r.Failure.Code
	}
	return string(r.Outcome)
}

func items(pairs ...any) map[string]any {
	var list []map[string]any
	for i := 0; i < len(pairs); i += 2 {
		list = append(list, map[string]any{"sku": pairs[i], "quantity": pairs[i+1], "unit_price": "12.50"})
	}
	return map[string]any{"items": list}
}

func payment(method, amount string) map[string]any {
	return map[string]any{"amount": amount, "currency": "EUR", "payment_method": method, "customer_id": "c-1"}
}

// one reads a single value.
func one[T any](h *harness, sql string, args ...any) T {
	h.t.Helper()
	var v T
	if err := h.pool.QueryRow(context.Background(), sql, args...).Scan(&v); err != nil {
		h.t.Fatalf("%s: %v", sql, err)
	}
	return v
}

// stock is "on_hand/reserved/sold" of a sku.
func (h *harness) stock(sku string) string {
	h.t.Helper()
	return one[string](h, `SELECT on_hand || '/' || reserved || '/' || sold FROM inventory.stock WHERE sku = $1`, sku)
}

func want[T comparable](t *testing.T, what string, got, want T) {
	t.Helper()
	if got != want {
		t.Errorf("%s: got %v, want %v", what, got, want)
	}
}

package bus

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/skald-saga/skald/internal/embedded"
	"github.com/skald-saga/skald/internal/testkit"
	"github.com/skald-saga/skald/internal/wire"
)

// engine is a reply consumer at work, and what it was given.
type engine struct {
	stop func() // and wait

	mu      sync.Mutex
	batches [][]Delivery
}

// consume starts a consumer. answer says what becomes of a batch.
func consume(t testing.TB, nc *nats.Conn, answer func(ctx context.Context, batch int, in []Delivery) error) *engine {
	t.Helper()
	e := &engine{}
	js := jetStream(t, nc)
	k, err := NewKeeper(nc, Topology{Prefix: "skald"}, testkit.Log(t))
	if err != nil {
		t.Fatal(err)
	}
	c := ReplyConsumer{Prefix: "skald", JS: js, Log: testkit.Log(t), Missing: k.Poke}
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() { _ = k.Run(ctx) })
	wg.Go(func() {
		err := c.Run(ctx, func(ctx context.Context, in []Delivery) error {
			e.mu.Lock()
			e.batches = append(e.batches, in)
			n := len(e.batches)
			e.mu.Unlock()
			return answer(ctx, n, in)
		})
		if err != nil {
			t.Error(err)
		}
	})
	e.stop = func() { cancel(); wg.Wait() }
	t.Cleanup(e.stop)
	return e
}

func (e *engine) bodies() [][]string {
	e.mu.Lock()
	defer e.mu.Unlock()
	all := make([][]string, len(e.batches))
	for i, b := range e.batches {
		for _, d := range b {
			all[i] = append(all[i], string(d.Body))
		}
	}
	return all
}

func handleAll(context.Context, int, []Delivery) error { return nil }

// replies makes the topology and puts n good replies into their stream.
func replies(t testing.TB, nc *nats.Conn, n int) jetstream.JetStream {
	t.Helper()
	js := jetStream(t, nc)
	if err := topology.Ensure(t.Context(), js); err != nil {
		t.Fatal(err)
	}
	for i := range n {
		reply(t, js, fmt.Sprint(i))
	}
	return js
}

func reply(t testing.TB, js jetstream.JetStream, body string) {
	t.Helper()
	effect := wire.EffectID{Saga: "01890000-0000-7000-8000-000000000000", Step: "s", Phase: wire.Action, Generation: 1}
	r := wire.Reply{EffectID: effect, Outcome: wire.Succeeded, Body: []byte(body)}
	if _, err := js.PublishMsg(t.Context(), &nats.Msg{Subject: "skald.reply.0", Header: r.Header(), Data: r.Payload()}); err != nil {
		t.Fatal(err)
	}
}

// Replies that are waiting come in batches, in their order, and are
// acknowledged when they have been dealt with.
func TestRepliesComeInBatches(t *testing.T) {
	t.Parallel()
	nc := connect(t, testkit.NATS(t).URL())
	const n = 3*replyBatch + 7
	js := replies(t, nc, n)
	gate := make(chan struct{})
	e := consume(t, nc, func(ctx context.Context, batch int, _ []Delivery) error {
		if batch == 1 { // while the first is handled, the next gathers
			<-gate
		}
		return nil
	})
	testkit.Eventually(t, "the first batch", 20*time.Second, func() (bool, string) { return len(e.bodies()) == 1, "" })
	consumer, err := js.Consumer(t.Context(), "SKALD_REPLIES", EngineConsumer)
	if err != nil {
		t.Fatal(err)
	}
	testkit.Eventually(t, "all are fetched", 20*time.Second, func() (bool, string) {
		info, err := consumer.Info(t.Context())
		return err == nil && info.NumPending == 0, fmt.Sprint(err)
	})
	close(gate)
	awaitCount(t, js, "SKALD_REPLIES", 0)
	batches := e.bodies()
	var all []string
	for _, b := range batches {
		if len(b) > replyBatch {
			t.Errorf("a batch of %d, more than %d", len(b), replyBatch)
		}
		all = append(all, b...)
	}
	if len(batches) > 40 {
		t.Errorf("%d batches for %d replies", len(batches), n)
	}
	for i, body := range all {
		if body != fmt.Sprint(i) {
			t.Fatalf("reply %d: got %s", i, body)
		}
	}
	if len(all) != n {
		t.Errorf("%d replies came, want %d", len(all), n)
	}
}

// A batch is offered until it has been dealt with, and acknowledged only then.
func TestABatchIsOfferedUntilItIsHandled(t *testing.T) {
	t.Parallel()
	nc := connect(t, testkit.NATS(t).URL())
	js := replies(t, nc, 3)
	e := consume(t, nc, func(_ context.Context, batch int, in []Delivery) error {
		if n := count(js, "SKALD_REPLIES"); n != 3 && batch <= 3 {
			t.Errorf("%d replies are left before any was handled", n)
		}
		if batch <= 3 {
			return errors.New("the database is away")
		}
		return nil
	})
	awaitCount(t, js, "SKALD_REPLIES", 0)
	batches := e.bodies()
	for i := 1; i < 4; i++ {
		want(t, "offered again", batches[i], batches[0]...)
	}
	e.stop()
}

// P6: what cannot be read is handed on with the reason and with all that
// arrived: it must become a dead letter, not vanish.
func TestAnUnreadableReplyIsHandedOn(t *testing.T) {
	t.Parallel()
	nc := connect(t, testkit.NATS(t).URL())
	js := replies(t, nc, 1)
	bad := &nats.Msg{Subject: "skald.reply.7", Header: nats.Header{"ce-outcome": {"maybe"}, "x": {"y"}}, Data: []byte("not JSON")}
	if _, err := js.PublishMsg(t.Context(), bad); err != nil {
		t.Fatal(err)
	}
	e := consume(t, nc, handleAll)
	awaitCount(t, js, "SKALD_REPLIES", 0)
	e.stop()
	var got []Delivery
	for _, b := range e.batches {
		got = append(got, b...)
	}
	if len(got) != 2 {
		t.Fatalf("%d came, want 2", len(got))
	}
	if got[0].Err != nil || got[0].Reply.Outcome != wire.Succeeded || got[0].Reply.EffectID.Step != "s" {
		t.Errorf("the good one: got %+v", got[0])
	}
	d := got[1]
	if d.Err == nil || d.Subject != "skald.reply.7" || d.Headers["ce-outcome"][0] != "maybe" || d.Headers["x"][0] != "y" || string(d.Body) != "not JSON" {
		t.Errorf("the bad one: got %+v", d)
	}
}

// A server that is stopped gives back what it fetched and did not handle, so
// that another has it at once and not after AckWait.
func TestAStoppedConsumerGivesBackWhatItHolds(t *testing.T) {
	t.Parallel()
	nc := connect(t, testkit.NATS(t).URL())
	const n = 4 * replyBatch
	js := replies(t, nc, n)
	first := consume(t, nc, func(ctx context.Context, _ int, _ []Delivery) error {
		<-ctx.Done() // it never gets anything done
		return ctx.Err()
	})
	consumer, err := js.Consumer(t.Context(), "SKALD_REPLIES", EngineConsumer)
	if err != nil {
		t.Fatal(err)
	}
	testkit.Eventually(t, "all are fetched", 20*time.Second, func() (bool, string) {
		info, err := consumer.Info(t.Context())
		return err == nil && info.NumAckPending == n, fmt.Sprint(err)
	})
	first.stop()
	consume(t, connect(t, nc.ConnectedUrl()), handleAll)
	awaitCount(t, js, "SKALD_REPLIES", 0) // within less than AckWait
}

// P4: when NATS has lost everything, the consumer finds the new stream.
func TestTheConsumerSurvivesTheLossOfItsStream(t *testing.T) {
	t.Parallel()
	for name, lose := range map[string]func(t *testing.T, server *embedded.NATS, js jetstream.JetStream){
		"the server lost everything": func(t *testing.T, server *embedded.NATS, _ jetstream.JetStream) {
			server.Halt()
			if err := errors.Join(server.Wipe(), server.Start()); err != nil {
				t.Fatal(err)
			}
		},
		"the stream was deleted": func(t *testing.T, _ *embedded.NATS, js jetstream.JetStream) {
			if err := js.DeleteStream(t.Context(), "SKALD_REPLIES"); err != nil {
				t.Fatal(err)
			}
		},
		"the consumer was deleted": func(t *testing.T, _ *embedded.NATS, js jetstream.JetStream) {
			if err := js.DeleteConsumer(t.Context(), "SKALD_REPLIES", EngineConsumer); err != nil {
				t.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := testkit.NATS(t)
			nc := connect(t, server.URL())
			js := replies(t, nc, 1)
			e := consume(t, nc, handleAll)
			awaitCount(t, js, "SKALD_REPLIES", 0)
			lose(t, server, js)
			testkit.Eventually(t, "the consumer is there again", 30*time.Second, func() (bool, string) {
				ctx, cancel := context.WithTimeout(t.Context(), time.Second)
				defer cancel()
				_, err := js.Consumer(ctx, "SKALD_REPLIES", EngineConsumer)
				return err == nil, fmt.Sprint(err)
			})
			reply(t, js, `"after"`)
			testkit.Eventually(t, "the reply after the loss", 30*time.Second, func() (bool, string) {
				b := e.bodies()
				return strings.Join(b[len(b)-1], "") == `"after"`, fmt.Sprint(b)
			})
			e.stop()
		})
	}
}

package bus

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/skald-saga/skald/internal/testkit"
)

// P4: whatever the server says about the consumer, and whenever: the replies
// that come afterwards are heard.
func TestTheConsumerIsNeverDeaf(t *testing.T) {
	t.Parallel()
	for name, statuses := range map[string][][2]string{
		"its leader changed, then it was deleted": {{"409", "Leadership Change"}, {"409", "Consumer Deleted"}},
		"a request was refused":                   {{"400", "Bad Request"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			nc := connect(t, testkit.NATS(t).URL())
			js := replies(t, nc, 1)
			requests, err := nc.SubscribeSync("$JS.API.CONSUMER.MSG.NEXT.SKALD_REPLIES." + EngineConsumer)
			if err != nil {
				t.Fatal(err)
			}
			if err := nc.Flush(); err != nil {
				t.Fatal(err)
			}
			begun, gate := make(chan struct{}), make(chan struct{})
			client := connect(t, nc.ConnectedUrl())
			e := consume(t, client, func(_ context.Context, batch int, _ []Delivery) error {
				if batch == 1 { // what the server says comes while nobody listens
					close(begun)
					<-gate
				}
				return nil
			})
			request, err := requests.NextMsg(20 * time.Second)
			if err != nil {
				t.Fatal(err)
			}
			<-begun
			subscriptions := client.NumSubscriptions()
			for _, s := range statuses {
				err = errors.Join(err, nc.PublishMsg(&nats.Msg{Subject: request.Reply, Header: nats.Header{"Status": {s[0]}, "Description": {s[1]}}}))
			}
			if err := errors.Join(err, nc.Flush()); err != nil {
				t.Fatal(err)
			}
			testkit.Eventually(t, "the client has given up", 20*time.Second, func() (bool, string) {
				n := client.NumSubscriptions()
				return n < subscriptions, fmt.Sprint(n)
			})
			close(gate)
			for again := false; !again; { // another request with another inbox is another consume
				next, err := requests.NextMsg(20 * time.Second)
				if err != nil {
					t.Fatalf("nothing more was asked for: %v", err)
				}
				again = next.Reply != request.Reply
			}
			reply(t, js, `"after"`)
			testkit.Eventually(t, "the reply after it", 20*time.Second, func() (bool, string) {
				b := e.bodies()
				return strings.Join(b[len(b)-1], "") == `"after"`, fmt.Sprint(b)
			})
		})
	}
}

// P12: large replies that are not dealt with stay with NATS, but for a bounded
// number of bytes.
func TestTheConsumerHoldsABoundedNumberOfBytes(t *testing.T) {
	t.Parallel()
	nc := connect(t, testkit.NATS(t).URL())
	const n, size = 80, 1_000_000
	js := replies(t, nc, 0)
	for range n {
		reply(t, js, `"`+strings.Repeat("x", size-2)+`"`)
	}
	gate := make(chan struct{})
	consume(t, nc, func(_ context.Context, batch int, _ []Delivery) error {
		if batch == 1 {
			<-gate
		}
		return nil
	})
	consumer, err := js.Consumer(t.Context(), "SKALD_REPLIES", EngineConsumer)
	if err != nil {
		t.Fatal(err)
	}
	held := 0
	testkit.Eventually(t, "no more are fetched", 20*time.Second, func() (bool, string) {
		info, err := consumer.Info(t.Context())
		if err != nil {
			return false, err.Error()
		}
		before := held
		held = info.NumAckPending
		return held > replyBytes/size && held == before, fmt.Sprint(held)
	})
	if held > 3*replyBytes/size {
		t.Errorf("%d bytes are held, more than %d", held*size, 3*replyBytes)
	}
	close(gate)
	awaitCount(t, js, "SKALD_REPLIES", 0)
}

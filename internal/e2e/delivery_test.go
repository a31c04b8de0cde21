package e2e

import (
	"context"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/skald-saga/skald/internal/bus"
	"github.com/skald-saga/skald/internal/wire"
)

// P5, P6: every command and every reply is delivered three times, in random
// order, some of them when their saga has long gone on or ended.
func TestOrdersSurviveThreefoldDeliveryInRandomOrder(t *testing.T) {
	t.Parallel()
	const far = "far"
	s := start(t, far)
	p := &postman{t: t, nc: s.connect()}
	js, err := jetstream.New(p.nc)
	if err != nil {
		t.Fatal(err)
	}
	if err := (bus.Topology{Prefix: far, Participants: []string{"inventory", "payment", "shipping", "bank"}}).Ensure(t.Context(), js); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	defer p.done.Wait()
	defer stop()
	for _, participant := range []string{"inventory", "payment", "shipping", "bank"} {
		p.carry(ctx, js, wire.CommandsStream("skald"), participant, "skald", far)
	}
	p.carry(ctx, js, wire.RepliesStream(far), bus.EngineConsumer, far, "skald")

	c := s.during(10, func() {})
	s.settle(2 * time.Minute)
	p.quiet(ctx)
	s.audit(c)
	if n := s.query(s.pool(s.skaldURL), `SELECT coalesce(sum(count), 0)::text FROM saga_stale_reply`); n == "0" {
		t.Error("P6: no stale reply was recorded")
	}
	t.Logf("%d messages were delivered", p.delivered.Load())
}

// postman carries messages from one prefix to another: each three times, each
// time after a wait of its own.
type postman struct {
	t         *testing.T
	nc        *nats.Conn
	done      sync.WaitGroup
	underway  atomic.Int64
	delivered atomic.Int64
}

func (p *postman) carry(ctx context.Context, js jetstream.JetStream, stream, consumer, from, to string) {
	p.t.Helper()
	c, err := js.Consumer(ctx, stream, consumer)
	if err != nil {
		p.t.Fatal(err)
	}
	cc, err := c.Consume(func(m jetstream.Msg) {
		for range 3 {
			p.underway.Add(1)
			time.AfterFunc(delay(), func() { p.deliver(m, from, to) })
		}
		_ = m.Ack()
	})
	if err != nil {
		p.t.Fatal(err)
	}
	p.done.Go(func() { <-ctx.Done(); cc.Stop() })
}

// delay is mostly short, and at times longer than the steps' timeouts.
func delay() time.Duration {
	if rand.IntN(20) == 0 {
		return time.Duration(rand.IntN(8000)) * time.Millisecond
	}
	return time.Duration(rand.IntN(200)) * time.Millisecond
}

func (p *postman) deliver(m jetstream.Msg, from, to string) {
	defer p.underway.Add(-1)
	copied := nats.NewMsg(to + strings.TrimPrefix(m.Subject(), from))
	for k, v := range m.Headers() {
		copied.Header[k] = v
	}
	copied.Header[wire.HeaderMsgID] = []string{uuid.NewString()} // JetStream must not put the copies right
	if _, isCommand := copied.Header[wire.HeaderReplyTo]; isCommand {
		copied.Header[wire.HeaderReplyTo] = []string{wire.ReplySubject(to, 0)}
	}
	copied.Data = m.Data()
	if _, err := p.nc.RequestMsg(copied, 5*time.Second); err != nil {
		p.t.Errorf("carry %s: %v", copied.Subject, err)
	}
	p.delivered.Add(1)
}

// quiet waits until nothing is underway for a while.
func (p *postman) quiet(ctx context.Context) {
	for still := 0; still < 20; still++ {
		if p.underway.Load() > 0 {
			still = 0
		}
		pause(ctx, 50*time.Millisecond)
	}
}

package bus

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/skald-saga/skald/internal/wire"
)

// Delivery is one message of the replies stream.
type Delivery struct {
	Reply   wire.Reply
	Err     error // why it could not be read
	Subject string
	Headers map[string][]string
	Body    []byte
}

// ReplyConsumer hands replies on in batches, and acknowledges a batch when it
// has been dealt with.
type ReplyConsumer struct {
	Prefix  string
	JS      jetstream.JetStream
	Log     *slog.Logger
	Missing func() // called when the stream or consumer is not there; may be nil
}

const (
	replyBatch   = 256
	replyBuffer  = 2048 // messages that the client fetches ahead
	replyBytes   = 16 << 20
	retryFirst   = 50 * time.Millisecond
	retryMost    = 5 * time.Second
	replyExpires = 5 * time.Second // of one pull request

	giveBackTimeout = time.Second

	// The client has at most two requests of replyBytes under way, and we hold
	// as much again in shares. It would drop what it has no room for at 64 MiB.
	replyShares = 2 * replyBatch
	replyShare  = replyBytes / replyShares
)

var errClosed = errors.New("the client stopped consuming")

// Run consumes until ctx is cancelled. Batches are what is waiting, at most
// replyBatch: one reply alone is handled at once, and while a batch is handled
// the next gathers. A batch that handle fails is offered again, in the same
// order, until it succeeds.
func (c *ReplyConsumer) Run(ctx context.Context, handle func(context.Context, []Delivery) error) error {
	for ctx.Err() == nil {
		if err := c.consume(ctx, handle); err != nil && ctx.Err() == nil {
			c.Log.WarnContext(ctx, "consuming replies was interrupted", "err", err)
			if c.Missing != nil {
				c.Missing()
			}
			pause(ctx, 200*time.Millisecond)
		}
	}
	return nil
}

// consume works until the consumer is lost. What it has fetched but not handled
// it gives back: otherwise JetStream would wait for it for AckWait.
func (c *ReplyConsumer) consume(ctx context.Context, handle func(context.Context, []Delivery) error) error {
	consumer, err := c.JS.Consumer(ctx, wire.RepliesStream(c.Prefix), EngineConsumer)
	if err != nil {
		return fmt.Errorf("find consumer: %w", err)
	}
	r := &reading{messages: make(chan jetstream.Msg, replyBatch), room: make(chan struct{}, replyShares), lost: make(chan error, 1)}
	readCtx, stopReading := context.WithCancel(ctx)
	cc, err := consumer.Consume(func(m jetstream.Msg) { r.take(readCtx, m) },
		jetstream.PullMaxMessagesWithBytesLimit(replyBuffer, max(replyBytes, int(c.JS.Conn().MaxPayload())+1<<20)),
		jetstream.PullExpiry(replyExpires),
		jetstream.ConsumeErrHandler(func(_ jetstream.ConsumeContext, err error) {
			if gone(err) { // what passes must not take the place of what does not
				select {
				case r.lost <- err:
				default:
				}
			}
		}))
	if err != nil {
		stopReading()
		return fmt.Errorf("consume: %w", err)
	}
	r.closed = cc.Closed()
	err = c.batches(ctx, r, handle)
	stopReading()
	cc.Drain() // what the client has buffered comes to our function, which gives it back
	select {
	case <-cc.Closed():
	case <-time.After(giveBackTimeout): // no connection: nothing can be given back
	}
	giveBack(waiting(nil, r.messages, replyBatch)...)
	return err
}

// reading is what is shared with the client's goroutine.
type reading struct {
	messages chan jetstream.Msg
	room     chan struct{} // one for each share of memory in use
	lost     chan error
	closed   <-chan struct{} // the client consumes no more, for whatever reason
}

// take waits until there is room for a message.
func (r *reading) take(ctx context.Context, m jetstream.Msg) {
	for range shares(m) {
		select {
		case r.room <- struct{}{}:
		case <-ctx.Done():
			giveBack(m)
			return
		}
	}
	select {
	case r.messages <- m:
	case <-ctx.Done():
		giveBack(m)
	}
}

// free makes the room of messages that have been dealt with available.
func (r *reading) free(batch []jetstream.Msg) {
	for _, m := range batch {
		for range shares(m) {
			<-r.room
		}
	}
}

// shares says how much room a message takes. The largest has it all.
func shares(m jetstream.Msg) int {
	return min(1+len(m.Data())/replyShare, replyShares)
}

// batches hands messages on until the consumer is lost or ctx is cancelled.
func (c *ReplyConsumer) batches(ctx context.Context, r *reading, handle func(context.Context, []Delivery) error) error {
	batch := make([]jetstream.Msg, 0, replyBatch)
	for {
		select {
		case <-ctx.Done():
			return nil
		case err := <-r.lost:
			return err
		case <-r.closed:
			return errClosed
		case m := <-r.messages:
			batch = waiting(append(batch[:0], m), r.messages, replyBatch)
			if err := c.handle(ctx, batch, handle); err != nil {
				giveBack(batch...)
				return err
			}
			r.free(batch)
		}
	}
}

// waiting appends the messages that are there, until there are limit.
func waiting(batch []jetstream.Msg, messages <-chan jetstream.Msg, limit int) []jetstream.Msg {
	for len(batch) < limit {
		select {
		case m := <-messages:
			batch = append(batch, m)
		default:
			return batch
		}
	}
	return batch
}

// giveBack asks JetStream to deliver messages again, at once.
func giveBack(messages ...jetstream.Msg) {
	for _, m := range messages {
		_ = m.Nak() // acknowledged already, or no connection: then AckWait must pass
	}
}

// gone tells a lost consumer from what the client mends itself.
func gone(err error) bool {
	return errors.Is(err, jetstream.ErrConsumerDeleted) || errors.Is(err, jetstream.ErrConsumerNotFound) ||
		errors.Is(err, jetstream.ErrStreamNotFound) || errors.Is(err, jetstream.ErrNoHeartbeat) ||
		errors.Is(err, nats.ErrNoResponders) || errors.Is(err, nats.ErrConnectionClosed)
}

func (c *ReplyConsumer) handle(ctx context.Context, batch []jetstream.Msg, handle func(context.Context, []Delivery) error) error {
	deliveries := make([]Delivery, len(batch))
	for i, m := range batch {
		d := Delivery{Subject: m.Subject(), Headers: m.Headers(), Body: m.Data()}
		d.Reply, d.Err = wire.DecodeReply(d.Headers, d.Body)
		deliveries[i] = d
	}
	for delay := retryFirst; ; delay = min(2*delay, retryMost) {
		err := handle(ctx, deliveries)
		if err == nil {
			break
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		c.Log.WarnContext(ctx, "handling replies failed", "replies", len(batch), "err", err, "retry_in", delay)
		pause(ctx, delay)
	}
	for _, m := range batch {
		if err := m.Ack(); err != nil {
			return fmt.Errorf("acknowledge reply: %w", err)
		}
	}
	return nil
}

func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}

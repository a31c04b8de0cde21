package participant

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/skald-saga/skald/internal/wire"
)

// worker takes commands and hands them to handlers.
type worker struct {
	*Participant
	js    jetstream.JetStream
	slots chan struct{} // one for each handler at work
}

// run consumes until ctx is cancelled, and returns when no handler is at work.
func (w *worker) run(ctx context.Context) {
	// Handlers have a context of their own: what they began they may finish.
	work, abort := context.WithCancel(context.WithoutCancel(ctx))
	defer abort()
	waiting := false
	for ctx.Err() == nil {
		err := w.consume(ctx, work, func() {
			if waiting {
				w.cfg.Log.InfoContext(ctx, "participant is at work again", "participant", w.cfg.Service)
			}
			waiting = false
		})
		if ctx.Err() != nil {
			break
		}
		if !waiting { // once, not every time
			w.cfg.Log.WarnContext(ctx, "participant is waiting for its commands", "participant", w.cfg.Service, "err", err)
		}
		waiting = true
		pause(ctx, 500*time.Millisecond)
	}
	w.drain(abort)
}

// drain waits until no handler is at work, and none can begin. Those that take
// too long see their context end, roll back and return.
func (w *worker) drain(abort context.CancelFunc) {
	late := time.AfterFunc(w.cfg.DrainTimeout, abort)
	defer late.Stop()
	for range cap(w.slots) {
		w.slots <- struct{}{}
	}
	// Acknowledgements may still be in the connection's buffer. One that is
	// lost costs a redelivery.
	_ = w.cfg.NATS.FlushTimeout(time.Second)
}

// aheadBytes bounds one of the client's requests, of which two may be under
// way: it would drop what it has no room for at 64 MiB.
const aheadBytes = 16 << 20

var errClosed = errors.New("the client stopped consuming")

// consume works until ctx is cancelled or the consumer is lost. It calls
// began when it has one. Handlers get the context work.
func (w *worker) consume(ctx, work context.Context, began func()) error {
	consumer, err := w.js.Consumer(ctx, wire.CommandsStream(w.cfg.Prefix), w.cfg.Service)
	if err != nil {
		return fmt.Errorf("find consumer: %w", err)
	}
	lost := make(chan error, 1)
	cc, err := consumer.Consume(func(m jetstream.Msg) { w.take(ctx, work, m) },
		jetstream.PullMaxMessagesWithBytesLimit(4*w.cfg.Concurrency, max(aheadBytes, int(w.cfg.NATS.MaxPayload())+1<<20)),
		jetstream.PullExpiry(5*time.Second),
		jetstream.ConsumeErrHandler(func(_ jetstream.ConsumeContext, err error) {
			if gone(err) {
				select {
				case lost <- err:
				default:
				}
			}
		}))
	if err != nil {
		return fmt.Errorf("consume: %w", err)
	}
	began()
	select {
	case err = <-lost:
		cc.Stop()
		return err
	case <-cc.Closed(): // for whatever reason
		return errClosed
	case <-ctx.Done():
	}
	if !w.cfg.NATS.IsConnected() {
		cc.Stop() // nothing can be given back
		return nil
	}
	cc.Drain() // take gives back what is buffered
	select {
	case <-cc.Closed():
	case <-time.After(w.cfg.DrainTimeout):
	}
	return nil
}

// gone tells a lost consumer from what the client mends itself.
func gone(err error) bool {
	return errors.Is(err, jetstream.ErrConsumerDeleted) || errors.Is(err, jetstream.ErrConsumerNotFound) ||
		errors.Is(err, jetstream.ErrStreamNotFound) || errors.Is(err, jetstream.ErrNoHeartbeat) ||
		errors.Is(err, nats.ErrNoResponders) || errors.Is(err, nats.ErrConnectionClosed)
}

// take waits for a free handler. When it is time to stop, the message goes
// back at once, for whoever is there then.
func (w *worker) take(ctx, work context.Context, m jetstream.Msg) {
	if ctx.Err() == nil {
		select {
		case w.slots <- struct{}{}:
			go func() {
				defer func() { <-w.slots }()
				w.handle(work, m)
			}()
			return
		case <-ctx.Done():
		}
	}
	_ = m.Nak()
}

// handle executes one command: do, reply durably, acknowledge, in that order.
// Whatever is cut short is delivered again.
func (w *worker) handle(ctx context.Context, m jetstream.Msg) {
	c, err := wire.DecodeCommand(m.Subject(), m.Headers(), m.Data())
	if err != nil {
		w.cfg.Log.ErrorContext(ctx, "command cannot be read", "subject", m.Subject(), "err", err)
		w.metrics.commands.WithLabelValues("unreadable").Inc()
		_ = m.TermWithReason("cannot be read") // if that is lost it comes again, and goes again
		return
	}
	reply := w.execute(ctx, c)
	if ctx.Err() != nil && reply.Outcome == wire.Retry {
		w.metrics.commands.WithLabelValues("interrupted").Inc()
		_ = m.Nak() // not the handler's fault: no attempt is spent
		return
	}
	w.metrics.commands.WithLabelValues(string(reply.Outcome)).Inc()
	// The same message delivered twice gives the same reply id, which JetStream
	// drops; another attempt is another message, and its reply gets through.
	if c.MsgID != "" {
		reply.MsgID = c.MsgID + "/" + string(reply.Outcome)
	}
	if err := w.publish(&nats.Msg{Subject: c.ReplyTo, Header: reply.Header(), Data: reply.Payload()}); err != nil {
		w.unanswered(ctx, m, c, err)
		return
	}
	_ = m.Ack() // lost: delivered again, and answered from the inbox
}

// publish returns when JetStream has the message.
func (w *worker) publish(m *nats.Msg) error {
	future, err := w.js.PublishMsgAsync(m)
	if err != nil {
		return err
	}
	select {
	case <-future.Ok():
		return nil
	case err := <-future.Err():
		return err
	}
}

// maxAnswers is how often a reply is tried for one message. After that the
// message goes: if anybody still waits, another attempt will come.
const maxAnswers = 100

func (w *worker) unanswered(ctx context.Context, m jetstream.Msg, c wire.Command, err error) {
	w.cfg.Log.WarnContext(ctx, "reply was not taken", "saga_id", c.Saga, "effect_id", c.EffectID.String(), "err", err)
	if meta, metaErr := m.Metadata(); metaErr == nil && meta.NumDelivered >= maxAnswers {
		w.metrics.commands.WithLabelValues("unanswerable").Inc()
		_ = m.TermWithReason("nobody takes the reply")
		return
	}
	_ = m.NakWithDelay(time.Second) // or comes again when its time is up
}

package participant

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/skald-saga/skald/internal/wire"
)

// consume works until the consumer is lost or ctx is cancelled.
func (p *Participant) consume(ctx context.Context, js jetstream.JetStream) error {
	consumer, err := js.Consumer(ctx, wire.CommandsStream(p.cfg.Prefix), p.cfg.Service)
	if err != nil {
		return fmt.Errorf("find consumer: %w", err)
	}
	// Handlers outlive ctx by DrainTimeout: what they began they may finish.
	work, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	var busy sync.WaitGroup
	slots := make(chan struct{}, p.cfg.Concurrency)
	lost := make(chan error, 1)
	cc, err := consumer.Consume(func(m jetstream.Msg) {
		select {
		case slots <- struct{}{}:
		case <-ctx.Done():
			return // not acknowledged: delivered again, to whoever is there then
		}
		busy.Go(func() {
			defer func() { <-slots }()
			p.handle(work, js, m)
		})
	}, jetstream.PullMaxMessages(4*p.cfg.Concurrency), jetstream.PullExpiry(5*time.Second),
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
	select {
	case <-ctx.Done():
	case err = <-lost:
	}
	cc.Stop()
	<-cc.Closed()
	done := make(chan struct{})
	go func() { busy.Wait(); close(done) }()
	select {
	case <-done:
	case <-time.After(p.cfg.DrainTimeout):
		cancel() // handlers see it, roll back and return
		<-done
	}
	return err
}

// gone tells a lost consumer from what the client mends itself.
func gone(err error) bool {
	return errors.Is(err, jetstream.ErrConsumerDeleted) || errors.Is(err, jetstream.ErrConsumerNotFound) ||
		errors.Is(err, jetstream.ErrStreamNotFound) || errors.Is(err, jetstream.ErrNoHeartbeat) ||
		errors.Is(err, nats.ErrNoResponders) || errors.Is(err, nats.ErrConnectionClosed)
}

// handle executes one command: do, reply durably, acknowledge, in that order.
// Whatever is cut short is delivered again.
func (p *Participant) handle(ctx context.Context, js jetstream.JetStream, m jetstream.Msg) {
	c, err := wire.DecodeCommand(m.Subject(), m.Headers(), m.Data())
	if err != nil {
		p.cfg.Log.ErrorContext(ctx, "command cannot be read", "subject", m.Subject(), "err", err)
		p.metrics.commands.WithLabelValues("unreadable").Inc()
		_ = m.TermWithReason("cannot be read") // if that is lost it comes again, and goes again
		return
	}
	reply := p.execute(ctx, c)
	p.metrics.commands.WithLabelValues(string(reply.Outcome)).Inc()
	// The same message delivered twice gives the same reply id, which JetStream
	// drops; another attempt is another message, and its reply gets through.
	reply.MsgID = c.MsgID + "/" + string(reply.Outcome)
	if c.MsgID == "" {
		reply.MsgID = ""
	}
	msg := &nats.Msg{Subject: c.ReplyTo, Header: reply.Header(), Data: reply.Payload()}
	future, err := js.PublishMsgAsync(msg)
	if err == nil {
		select {
		case <-future.Ok():
		case err = <-future.Err():
		}
	}
	if err != nil {
		p.cfg.Log.WarnContext(ctx, "reply was not taken", "saga_id", c.Saga, "err", err)
		_ = m.NakWithDelay(time.Second) // or comes again when its time is up
		return
	}
	_ = m.Ack() // lost: delivered again, and answered from the inbox
}

// execute runs the operation within its time. A panic is a transient error: the
// transaction is rolled back.
func (p *Participant) execute(ctx context.Context, c wire.Command) (reply wire.Reply) {
	op, known := p.operations[lastToken(c.Subject)]
	if !known {
		return transient(c, "unknown-operation", errors.New("this participant has no such operation"))
	}
	if !p.atWork.enter(c.EffectID) {
		return wire.Reply{EffectID: c.EffectID, Attempt: c.Attempt, Outcome: wire.InProgress}
	}
	defer p.atWork.leave(c.EffectID)
	ctx, cancel := context.WithTimeout(ctx, p.cfg.HandlerTimeout)
	defer cancel()
	defer func() {
		if v := recover(); v != nil {
			p.metrics.panics.Inc()
			p.cfg.Log.ErrorContext(ctx, "handler panicked", "saga_id", c.Saga, "effect_id", c.EffectID.String(), "panic", v, "stack", string(debug.Stack()))
			reply = transient(c, "panic", errors.New("the handler panicked"))
		}
	}()
	return op(ctx, c)
}

// atWork are the effects that this process is busy with.
type atWork struct {
	mu      sync.Mutex
	effects map[wire.EffectID]struct{}
}

func (a *atWork) enter(e wire.EffectID) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.effects == nil {
		a.effects = map[wire.EffectID]struct{}{}
	}
	if _, busy := a.effects[e]; busy {
		return false
	}
	a.effects[e] = struct{}{}
	return true
}

func (a *atWork) leave(e wire.EffectID) {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.effects, e)
}

func lastToken(subject string) string { return subject[strings.LastIndexByte(subject, '.')+1:] }

package bus

import (
	"context"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
)

// Wake-ups are core NATS messages: cheap, and free to be lost, because the
// relay also polls.

func wakeSubject(prefix string) string { return prefix + ".wake.outbox" }

// Waker tells relays that rows were committed.
type Waker struct {
	nc      *nats.Conn
	subject string
	pending chan struct{}
}

// wakeEvery is how often a busy server wakes the relays at most. What commits
// in between waits for it, so it is less than a commit takes.
const wakeEvery = time.Millisecond

// NewWaker returns a waker that sends nothing before Run.
func NewWaker(nc *nats.Conn, prefix string) *Waker {
	return &Waker{nc: nc, subject: wakeSubject(prefix), pending: make(chan struct{}, 1)}
}

// Wake never blocks; many calls may become one message.
func (w *Waker) Wake() {
	select {
	case w.pending <- struct{}{}:
	default:
	}
}

// Run sends wake-ups until ctx is cancelled: the first at once, those that
// follow closely as one.
func (w *Waker) Run(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-w.pending:
		}
		if w.nc.IsConnected() {
			_ = w.nc.Publish(w.subject, nil) // lost: the relay's poll finds the rows
		}
		pause(ctx, wakeEvery)
	}
}

// SubscribeWake returns a channel that receives after wake-ups.
func SubscribeWake(nc *nats.Conn, prefix string) (<-chan struct{}, error) {
	wake := make(chan struct{}, 1)
	_, err := nc.Subscribe(wakeSubject(prefix), func(*nats.Msg) {
		select {
		case wake <- struct{}{}:
		default:
		}
	})
	if err != nil {
		return nil, fmt.Errorf("subscribe to wake-ups: %w", err)
	}
	return wake, nil
}

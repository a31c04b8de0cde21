package bus

import (
	"bytes"
	"context"
	"crypto/rand"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
)

// Wake-ups are core NATS messages: cheap, and free to be lost, because the
// relay also polls.

func wakeSubject(prefix string) string { return prefix + ".wake.outbox" }

// Waker tells relays that rows were committed, or that lanes are free, and hears
// from others.
type Waker struct {
	nc      *nats.Conn
	subject string
	name    []byte // in what we send, so as not to listen to ourselves; others may send nothing
	pending chan struct{}
}

// wakeEvery is how often a busy server wakes the relays at most. What commits
// in between waits for it, so it is less than a commit takes.
const wakeEvery = time.Millisecond

// NewWaker returns a waker that sends nothing before Run.
func NewWaker(nc *nats.Conn, prefix string) *Waker {
	return &Waker{nc: nc, subject: wakeSubject(prefix), name: []byte(rand.Text()), pending: make(chan struct{}, 1)}
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
		w.Now()
		pause(ctx, wakeEvery)
	}
}

// Now sends a wake-up at once; nothing is sent while there is no connection.
func (w *Waker) Now() {
	if w.nc.IsConnected() {
		_ = w.nc.Publish(w.subject, w.name) // lost: the relay's poll finds the rows
	}
}

// Listen sends to wake, which has room for one, after the wake-ups of others.
func (w *Waker) Listen(wake chan<- struct{}) error {
	_, err := w.nc.Subscribe(w.subject, func(m *nats.Msg) {
		if bytes.Equal(m.Data, w.name) {
			return
		}
		select {
		case wake <- struct{}{}:
		default:
		}
	})
	if err != nil {
		return fmt.Errorf("subscribe to wake-ups: %w", err)
	}
	return nil
}

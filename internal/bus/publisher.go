package bus

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/skald-saga/skald/internal/outbox"
)

// Publisher publishes outbox rows to JetStream. It implements
// [outbox.Publisher]; it is not safe for concurrent use.
type Publisher struct {
	// Missing is called when no stream takes a subject; may be nil.
	Missing func()

	// Method is how rows leave; empty: Auto.
	Method Method

	js      jetstream.JetStream
	streams streams
}

const ackTimeout = 5 * time.Second

// NewPublisher makes a publisher on nc, which must not buffer while it is
// disconnected (see [Connect]).
func NewPublisher(nc *nats.Conn) (*Publisher, error) {
	js, err := jetstream.New(nc, jetstream.WithPublishAsyncMaxPending(window), jetstream.WithPublishAsyncTimeout(ackTimeout))
	if err != nil {
		return nil, fmt.Errorf("use JetStream: %w", err)
	}
	return &Publisher{js: js, streams: streams{js: js}}, nil
}

var errNotSent = errors.New("not sent: an earlier message failed, or the relay is stopping")

// Publish sends the rows and waits until each is acknowledged, refused, or its
// outcome unknown. Rows go to their streams as atomic batches, or one by one
// with many under way at once, see [Method]; either way none can overtake an earlier one
// of its key for good, and after a row that is blocked the other keys go on.
// The client does not retry on its own: that would reorder.
//
// A cancelled ctx stops the sending, but not the waiting: the outcome of what
// was sent must be known.
func (p *Publisher) Publish(ctx context.Context, rows []outbox.Row) []outbox.Result {
	s := &sending{Publisher: p, rows: rows, results: make([]outbox.Result, len(rows)), blocked: map[string]bool{}, missing: map[string]bool{}}
	for i := range rows {
		s.results[i].Err = errNotSent
	}
	for _, part := range p.parts(ctx, rows) {
		todo := s.free(part.rows)
		if part.stream != nil {
			todo = s.batch(ctx, part.stream, todo)
		}
		begun := time.Now()
		if !s.window(ctx, todo) || !s.passed(part.rows) {
			break
		}
		if len(todo) >= paceLeast {
			p.streams.pace = time.Since(begun) / time.Duration(len(todo))
		}
	}
	return s.results
}

// sending is one page on its way.
type sending struct {
	*Publisher

	rows    []outbox.Row
	results []outbox.Result
	blocked map[string]bool // keys of which a row is blocked: nothing more of them is sent
	missing map[string]bool // whether JetStream knows no stream for a subject; "": it does not answer
}

// free leaves out the rows of blocked keys.
func (s *sending) free(todo []int) []int {
	if len(s.blocked) == 0 {
		return todo
	}
	var free []int
	for _, i := range todo {
		if !s.blocked[s.rows[i].Key] {
			free = append(free, i)
		}
	}
	return free
}

// passed reports whether none of these rows must be sent again.
func (s *sending) passed(rows []int) bool {
	for _, i := range rows {
		if res := s.results[i]; res.Err != nil && !res.Poison && !s.blocked[s.rows[i].Key] {
			return false
		}
	}
	return true
}

// note keeps what became of a row.
func (s *sending) note(ctx context.Context, i int, res outbox.Result) {
	if unanswered(res.Err) {
		res.Blocked = s.noStream(ctx, s.rows[i].Subject)
	}
	if res.Blocked {
		s.blocked[s.rows[i].Key] = true
	}
	s.results[i] = res
}

// send sends one message; the result says why it could not.
func (p *Publisher) send(msg *nats.Msg) (jetstream.PubAckFuture, outbox.Result) {
	f, err := p.js.PublishMsgAsync(msg, jetstream.WithRetryAttempts(0))
	if err != nil {
		res := outcome(err)
		res.Unknown = false
		return nil, res
	}
	return f, outbox.Result{}
}

// await waits for the outcome. The future has a time limit of its own.
func (p *Publisher) await(f jetstream.PubAckFuture) outbox.Result {
	select {
	case ack := <-f.Ok():
		return outbox.Result{Duplicate: ack.Duplicate}
	case err := <-f.Err():
		if p.Missing != nil && unanswered(err) {
			p.Missing()
		}
		return outcome(err)
	}
}

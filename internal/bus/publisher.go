package bus

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/skald-saga/skald/internal/outbox"
	"github.com/skald-saga/skald/internal/wire"
)

// Publisher publishes outbox rows to JetStream. It implements
// [outbox.Publisher]; it is not safe for concurrent use.
type Publisher struct {
	// Missing is called when no stream takes a subject; may be nil.
	Missing func()

	js jetstream.JetStream
}

const (
	ackTimeout = 5 * time.Second
	// window is how many messages may be under way at once. Messages behind a
	// failed one are sent again, so it also bounds the duplicates.
	window = 512
)

// Error codes of the JetStream API.
const codeMessageTooLarge = 10054

// NewPublisher makes a publisher on nc, which must not buffer while it is
// disconnected (see [Connect]).
func NewPublisher(nc *nats.Conn) (*Publisher, error) {
	js, err := jetstream.New(nc, jetstream.WithPublishAsyncMaxPending(window), jetstream.WithPublishAsyncTimeout(ackTimeout))
	if err != nil {
		return nil, fmt.Errorf("use JetStream: %w", err)
	}
	return &Publisher{js: js}, nil
}

var errNotSent = errors.New("not sent: an earlier message failed")

// Publish sends the rows in order and waits until each is acknowledged,
// refused, or its outcome unknown. The client does not retry on its own: that
// would reorder.
func (p *Publisher) Publish(ctx context.Context, rows []outbox.Row) []outbox.Result {
	results := make([]outbox.Result, len(rows))
	futures := make([]jetstream.PubAckFuture, len(rows))
	failed := false
	for i, row := range rows {
		if !failed && i >= window { // the one that left the window is known by now, or soon
			failed = p.await(ctx, &results[i-window], futures[i-window])
		}
		if failed || ctx.Err() != nil {
			results[i].Err = errNotSent
			continue
		}
		msg, err := message(row)
		if err != nil {
			results[i] = outbox.Result{Err: err, Poison: true}
			continue
		}
		futures[i], err = p.js.PublishMsgAsync(msg, jetstream.WithRetryAttempts(0))
		if err != nil {
			results[i] = outcome(err)
			failed = !results[i].Poison
		}
	}
	for i, f := range futures {
		if f != nil && results[i].Err == nil {
			p.await(ctx, &results[i], f)
		}
	}
	return results
}

// await fills in the outcome; it reports whether later rows must wait. The
// futures have a time limit of their own, so a cancelled ctx does not cut the
// wait short: the outcome of what was sent must be known.
func (p *Publisher) await(_ context.Context, res *outbox.Result, f jetstream.PubAckFuture) (failed bool) {
	if f == nil {
		return false
	}
	select {
	case <-f.Ok():
		return false
	case err := <-f.Err():
		*res = outcome(err)
		if errors.Is(err, nats.ErrNoResponders) || errors.Is(err, jetstream.ErrNoStreamResponse) {
			if p.Missing != nil {
				p.Missing()
			}
		}
		return !res.Poison
	}
}

// outcome sorts errors: those that will never pass, and all others.
func outcome(err error) outbox.Result {
	var api *jetstream.APIError
	poison := errors.Is(err, nats.ErrMaxPayload) || errors.Is(err, nats.ErrBadSubject) || errors.Is(err, nats.ErrBadHeaderMsg) ||
		(errors.As(err, &api) && int(api.ErrorCode) == codeMessageTooLarge)
	return outbox.Result{Err: err, Poison: poison}
}

// message makes the NATS message of a row: its headers, and what the row's own
// columns say.
func message(row outbox.Row) (*nats.Msg, error) {
	var headers map[string]string
	if err := json.Unmarshal(row.Headers, &headers); err != nil {
		return nil, fmt.Errorf("headers are not an object of strings: %w", err)
	}
	if !validSubject(row.Subject) {
		return nil, fmt.Errorf("subject %q: %w", row.Subject, nats.ErrBadSubject)
	}
	id := row.MsgID.String()
	h := make(nats.Header, len(headers)+4)
	h[wire.HeaderSpecVersion] = []string{wire.SpecVersion}
	h[wire.HeaderID] = []string{id}
	h[wire.HeaderTime] = []string{row.CreatedAt.UTC().Format(time.RFC3339Nano)}
	for k, v := range headers {
		if !validHeader(k, v) {
			return nil, fmt.Errorf("header %q: %w", k, nats.ErrBadHeaderMsg)
		}
		h[k] = []string{v}
	}
	h[wire.HeaderMsgID] = []string{id}
	return &nats.Msg{Subject: row.Subject, Header: h, Data: row.Payload}, nil
}

// validSubject refuses what the client would send but no server could route:
// wildcards, empty tokens and white space.
func validSubject(s string) bool {
	previous := byte('.')
	for i := range len(s) {
		c := s[i]
		if c <= ' ' || c == 0x7f || c == '*' || c == '>' || (c == '.' && previous == '.') {
			return false
		}
		previous = c
	}
	return previous != '.'
}

// validHeader refuses what would break the header block apart.
func validHeader(k, v string) bool {
	if k == "" {
		return false
	}
	for i := range len(k) {
		if k[i] <= ' ' || k[i] >= 0x7f || k[i] == ':' {
			return false
		}
	}
	for i := range len(v) {
		if v[i] == '\r' || v[i] == '\n' || v[i] == 0 {
			return false
		}
	}
	return true
}

package bus

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
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
	// maxSubject keeps the protocol line below the 4 KiB at which a server
	// breaks off the connection.
	maxSubject = 2048
)

// Error codes of the JetStream API.
const (
	codeMessageTooLarge = 10054
	codeStoreFailed     = 10077 // a limit of the stream is reached
)

// NewPublisher makes a publisher on nc, which must not buffer while it is
// disconnected (see [Connect]).
func NewPublisher(nc *nats.Conn) (*Publisher, error) {
	js, err := jetstream.New(nc, jetstream.WithPublishAsyncMaxPending(window), jetstream.WithPublishAsyncTimeout(ackTimeout))
	if err != nil {
		return nil, fmt.Errorf("use JetStream: %w", err)
	}
	return &Publisher{js: js}, nil
}

var errNotSent = errors.New("not sent: an earlier message failed, or the relay is stopping")

// Publish sends the rows and waits until each is acknowledged, refused, or its
// outcome unknown. Rows of different keys are under way together; a key's next
// row is sent only when its previous one has been acknowledged, so that none
// can overtake it for good; after a row that is blocked the other keys go on.
// The client does not retry on its own: that would reorder.
//
// A cancelled ctx stops the sending, but not the waiting: the outcome of what
// was sent must be known.
func (p *Publisher) Publish(ctx context.Context, rows []outbox.Row) []outbox.Result {
	results := make([]outbox.Result, len(rows))
	todo := make([]int, len(rows))
	for i := range rows {
		results[i].Err, todo[i] = errNotSent, i
	}
	known := map[string]bool{} // whether the subject has no stream
	for ok := true; ok && len(todo) > 0; {
		todo, ok = p.round(ctx, rows, todo, results, known)
	}
	return results
}

// round sends the first row of each key among todo, and returns the others. It
// is not ok if a row must be sent again.
func (p *Publisher) round(ctx context.Context, rows []outbox.Row, todo []int, results []outbox.Result, known map[string]bool) (later []int, ok bool) {
	busy, blocked := make(map[string]struct{}, len(todo)), map[string]bool{}
	var sent []int
	var futures []jetstream.PubAckFuture
	ok = true
	awaited := 0
	await := func() {
		i := sent[awaited]
		results[i] = p.await(futures[awaited])
		if results[i].Err != nil && p.refused(ctx, rows[i].Subject, results[i].Err, known) {
			results[i].Blocked, blocked[rows[i].Key] = true, true
		}
		ok = ok && (results[i].Err == nil || results[i].Poison || results[i].Blocked)
		awaited++
	}
	for _, i := range todo {
		if _, taken := busy[rows[i].Key]; taken {
			later = append(later, i)
			continue
		}
		busy[rows[i].Key] = struct{}{}
		if len(sent)-awaited == window {
			await()
		}
		if ok = ok && ctx.Err() == nil; !ok {
			break
		}
		f, refused := p.send(rows[i])
		if refused.Err != nil {
			results[i] = refused
			ok = refused.Poison
			continue
		}
		sent, futures = append(sent, i), append(futures, f)
	}
	for awaited < len(sent) {
		await()
	}
	if len(blocked) > 0 {
		later = slices.DeleteFunc(later, func(i int) bool { return blocked[rows[i].Key] })
	}
	return later, ok
}

// refused says whether only this subject is refused: its stream is full, or
// JetStream says that no stream takes it. That nobody answered is not enough:
// a stream has no leader for a moment, or JetStream is away.
func (p *Publisher) refused(ctx context.Context, subject string, err error, known map[string]bool) bool {
	var api *jetstream.APIError
	if errors.As(err, &api) {
		return int(api.ErrorCode) == codeStoreFailed
	}
	if !errors.Is(err, nats.ErrNoResponders) && !errors.Is(err, jetstream.ErrNoStreamResponse) {
		return false
	}
	none, asked := known[subject]
	if _, away := known[""]; !asked && !away {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), ackTimeout)
		defer cancel()
		_, err := p.js.StreamNameBySubject(ctx, subject)
		none = errors.Is(err, jetstream.ErrStreamNotFound)
		known[subject] = none
		if err != nil && !none {
			known[""] = true // JetStream is away: it need not be asked of every subject
		}
	}
	return none
}

// send sends one row; the result says why it could not.
func (p *Publisher) send(row outbox.Row) (jetstream.PubAckFuture, outbox.Result) {
	msg, err := message(row)
	if err != nil {
		return nil, outbox.Result{Err: err, Poison: true}
	}
	f, err := p.js.PublishMsgAsync(msg, jetstream.WithRetryAttempts(0))
	if err != nil {
		return nil, outcome(err)
	}
	return f, outbox.Result{}
}

// await waits for the outcome. The future has a time limit of its own.
func (p *Publisher) await(f jetstream.PubAckFuture) outbox.Result {
	select {
	case <-f.Ok():
		return outbox.Result{}
	case err := <-f.Err():
		if p.Missing != nil && (errors.Is(err, nats.ErrNoResponders) || errors.Is(err, jetstream.ErrNoStreamResponse)) {
			p.Missing()
		}
		return outcome(err)
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
	h, err := parseHeader(row.Headers, 4)
	if err != nil {
		return nil, fmt.Errorf("headers are not an object of strings: %w", err)
	}
	if !validSubject(row.Subject) {
		return nil, fmt.Errorf("subject %.100q: %w", row.Subject, nats.ErrBadSubject)
	}
	id := row.MsgID.String()
	for k, v := range h {
		if !validHeader(k, v[0]) {
			return nil, fmt.Errorf("header %.100q: %w", k, nats.ErrBadHeaderMsg)
		}
	}
	for _, own := range [...]struct{ name, value string }{
		{wire.HeaderSpecVersion, wire.SpecVersion}, {wire.HeaderID, id}, {wire.HeaderTime, row.CreatedAt.UTC().Format(time.RFC3339Nano)},
	} {
		if h[own.name] == nil { // else the writer knows better
			h[own.name] = []string{own.value}
		}
	}
	h[wire.HeaderMsgID] = []string{id}
	return &nats.Msg{Subject: row.Subject, Header: h, Data: row.Payload}, nil
}

// validSubject refuses what the client would send but no stream could take:
// wildcards, empty tokens, white space, and the server's own subjects.
func validSubject(s string) bool {
	if len(s) > maxSubject || strings.HasPrefix(s, "$JS.") || strings.HasPrefix(s, "$SYS.") {
		return false
	}
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

// validHeader refuses what would break the header block apart, and JetStream's
// own headers: they could delete what a stream holds, or be refused for ever.
// The message id is ours to give.
func validHeader(k, v string) bool {
	if k == "" || (strings.HasPrefix(strings.ToLower(k), "nats-") && k != wire.HeaderMsgID) {
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

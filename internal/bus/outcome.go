package bus

import (
	"context"
	"errors"
	"net/http"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/skald-saga/skald/internal/outbox"
)

// Error codes of the JetStream API.
const (
	codeMessageTooLarge = 10054
	codeStoreFailed     = 10077 // a limit of the stream is reached
	codeHeaderTooLarge  = 10097
	codeBatchesDisabled = 10174
	codeBatchTooLarge   = 10199
)

// outcome sorts errors. What JetStream says of the message will never pass, and
// the message is poison. What it says of the stream - full, or made so that it
// cannot take what we send - will pass once an operator has mended it, and
// concerns this stream only. Anything else - no answer, no leader, too much at
// once, a duplicate that is still under way - passes by itself.
//
// That we do not know a refusal does not make it poison: a dead letter is of no
// use to anybody if all that was wrong was the stream.
func outcome(err error) outbox.Result {
	var api *jetstream.APIError
	switch {
	case errors.Is(err, nats.ErrMaxPayload), errors.Is(err, nats.ErrBadSubject), errors.Is(err, nats.ErrBadHeaderMsg):
		return poison(err)
	case !errors.As(err, &api):
		return outbox.Result{Err: err, Unknown: !unanswered(err)}
	}
	switch api.ErrorCode {
	case codeMessageTooLarge, codeHeaderTooLarge:
		return poison(err)
	case codeStoreFailed:
		return outbox.Result{Err: err, Blocked: true}
	}
	passes := api.Code == http.StatusConflict || api.Code == http.StatusTooManyRequests || api.Code == http.StatusRequestTimeout
	return outbox.Result{Err: err, Blocked: api.Code >= 400 && api.Code < 500 && !passes}
}

func poison(err error) outbox.Result { return outbox.Result{Err: err, Poison: true} }

// unanswered says that nobody took the message: there is no stream for it, or
// the stream has no leader, or JetStream is away.
func unanswered(err error) bool {
	return errors.Is(err, nats.ErrNoResponders) || errors.Is(err, jetstream.ErrNoStreamResponse)
}

// noStream says whether JetStream knows no stream for the subject. That nobody
// answered is not enough to tell: see [unanswered].
func (s *sending) noStream(ctx context.Context, subject string) bool {
	none, asked := s.missing[subject]
	if _, away := s.missing[""]; !asked && !away {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), ackTimeout)
		defer cancel()
		_, err := s.js.StreamNameBySubject(ctx, subject)
		none = errors.Is(err, jetstream.ErrStreamNotFound)
		s.missing[subject] = none
		if err != nil && !none {
			s.missing[""] = true // it need not be asked of every subject
		}
	}
	return none
}

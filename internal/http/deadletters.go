package http

import (
	"context"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"net/url"
	"strconv"
	"time"
	"unicode/utf8"

	"github.com/google/uuid"

	"github.com/skald-saga/skald/internal/coordinator"
	"github.com/skald-saga/skald/internal/http/api"
	"github.com/skald-saga/skald/internal/wire"
)

const deadLettersPath = "/v1/dead-letters"

func (s *server) ListDeadLetters(ctx context.Context, req api.ListDeadLettersRequestObject) (api.ListDeadLettersResponseObject, error) {
	ctx, cancel := context.WithTimeout(ctx, callLimit)
	defer cancel()
	filter, source := url.Values{}, ""
	if req.Params.Source != nil {
		source = string(*req.Params.Source)
		filter.Set("source", source)
	}
	page, err := newPage(deadLettersPath, filter, req.Params.Limit, req.Params.Cursor)
	if err != nil {
		return nil, err
	}
	letters, more, err := s.Sagas.DeadLetters(ctx, source, letterAt(page.before), page.limit)
	if err != nil {
		return nil, err
	}
	list := api.ListDeadLetters200JSONResponse{Body: api.DeadLetterList{Items: make([]api.DeadLetter, len(letters)), HasMore: more}}
	for i, l := range letters {
		list.Body.Items[i] = letterView(l)
	}
	if more {
		list.Body.NextCursor, list.Headers.Link = page.next(placeOfLetter(letters[len(letters)-1]))
	}
	return list, nil
}

// placeOfLetter is where a letter stands in the list: its time, and its number
// with the source in the highest bit.
func placeOfLetter(l coordinator.DeadLetter) (place uuid.UUID) {
	number := uint64(l.ID.Number)
	if l.ID.Source == coordinator.FromReplies {
		number |= 1 << 63
	}
	binary.BigEndian.PutUint64(place[:8], uint64(l.At.UnixMicro()))
	binary.BigEndian.PutUint64(place[8:], number)
	return place
}

func letterAt(place uuid.UUID) (l coordinator.DeadLetter) {
	if place == uuid.Nil {
		return l
	}
	number := binary.BigEndian.Uint64(place[8:])
	l.At = time.UnixMicro(int64(binary.BigEndian.Uint64(place[:8])))
	l.ID = coordinator.DeadLetterID{Source: coordinator.FromOutbox, Number: int64(number &^ (1 << 63))}
	if number>>63 == 1 {
		l.ID.Source = coordinator.FromReplies
	}
	return l
}

func letterView(l coordinator.DeadLetter) api.DeadLetter {
	v := api.DeadLetter{
		Id: l.ID.String(), Source: api.DeadLetterSource(l.ID.Source), At: l.At, Subject: l.Subject, SagaId: optional(l.Key),
		Reason: l.Reason, Bytes: int32(l.Bytes), Headers: l.Headers,
	}
	switch {
	case l.Body == nil:
	case utf8.Valid(l.Body):
		text := string(l.Body)
		v.Body = &text
	default:
		text := base64.StdEncoding.EncodeToString(l.Body)
		v.BodyBase64 = &text
	}
	return v
}

func (s *server) GetDeadLetter(ctx context.Context, req api.GetDeadLetterRequestObject) (api.GetDeadLetterResponseObject, error) {
	ctx, cancel := context.WithTimeout(ctx, callLimit)
	defer cancel()
	id, err := coordinator.ParseDeadLetterID(req.Letter)
	if err != nil {
		return nil, err
	}
	l, err := s.Sagas.DeadLetter(ctx, id)
	if err != nil {
		return nil, err
	}
	return api.GetDeadLetter200JSONResponse{Body: letterView(l)}, nil
}

func (s *server) DeleteDeadLetter(ctx context.Context, req api.DeleteDeadLetterRequestObject) (api.DeleteDeadLetterResponseObject, error) {
	ctx, cancel := context.WithTimeout(ctx, callLimit)
	defer cancel()
	id, err := coordinator.ParseDeadLetterID(req.Letter)
	if err != nil {
		return nil, err
	}
	if err := s.Sagas.DeleteDeadLetter(ctx, id, asked(nil)); err != nil {
		return nil, err
	}
	return api.DeleteDeadLetter204Response{}, nil
}

func (s *server) RedriveDeadLetter(ctx context.Context, req api.RedriveDeadLetterRequestObject) (api.RedriveDeadLetterResponseObject, error) {
	ctx, cancel := context.WithTimeout(ctx, callLimit)
	defer cancel()
	id, err := coordinator.ParseDeadLetterID(req.Letter)
	if err != nil {
		return nil, err
	}
	stale, err := s.Sagas.Redrive(ctx, id, asked(reasonOf(req.Body)))
	if err != nil {
		return nil, err
	}
	if id.Source == coordinator.FromOutbox {
		return api.RedriveDeadLetter200JSONResponse{Body: api.Redriven{Outcome: "sent"}}, nil
	}
	return api.RedriveDeadLetter200JSONResponse{Body: redriven(stale)}, nil
}

// redriven says what a saga made of a reply.
func redriven(stale string) api.Redriven {
	if stale != "" {
		return api.Redriven{Outcome: "stale", Reason: &stale}
	}
	return api.Redriven{Outcome: "applied"}
}

// GiveReply reads a reply as if it had come through NATS: one decoder, one set
// of rules.
func (s *server) GiveReply(ctx context.Context, req api.GiveReplyRequestObject) (api.GiveReplyResponseObject, error) {
	ctx, cancel := context.WithTimeout(ctx, callLimit)
	defer cancel()
	b := req.Body
	if _, err := wire.ParseEffectID(b.EffectId); err != nil {
		return nil, at(api.ProblemCodeInputInvalid, "#/effect_id", "must be the effect id of a command")
	}
	if b.Result != nil && string(b.Outcome) != string(wire.Succeeded) {
		return nil, at(api.ProblemCodeInputInvalid, "#/result", "belongs to what succeeded, and to nothing else")
	}
	headers := map[string][]string{wire.HeaderEffectID: {b.EffectId}, wire.HeaderOutcome: {string(b.Outcome)}}
	if b.Attempt != nil {
		headers[wire.HeaderAttempt] = []string{strconv.Itoa(int(*b.Attempt))}
	}
	body := []byte(b.Result)
	if string(b.Outcome) != string(wire.Succeeded) {
		var err error
		if body, err = json.Marshal(map[string]any{
			"code": valueOf(b.Code), "message": valueOf(b.Message), "retry_after_ms": valueOf(b.RetryAfterMs), "extend_ms": valueOf(b.ExtendMs),
		}); err != nil {
			return nil, err
		}
	}
	reply, err := wire.DecodeReply(headers, body)
	if err != nil {
		return nil, at(api.ProblemCodeInputInvalid, "#", "is no reply that the protocol knows")
	}
	stale, err := s.Sagas.GiveReply(ctx, reply)
	if err != nil {
		return nil, err
	}
	return api.GiveReply200JSONResponse{Body: redriven(stale)}, nil
}

// valueOf is the zero value for what was left out.
func valueOf[T any](p *T) (v T) {
	if p != nil {
		v = *p
	}
	return v
}

func (s *server) GetOutbox(ctx context.Context, _ api.GetOutboxRequestObject) (api.GetOutboxResponseObject, error) {
	ctx, cancel := context.WithTimeout(ctx, callLimit)
	defer cancel()
	status, err := s.Sagas.Outbox(ctx)
	if err != nil {
		return nil, err
	}
	v := api.Outbox{Lanes: make([]api.OutboxLane, len(status.Lanes))}
	for i, l := range status.Lanes {
		v.Lanes[i] = api.OutboxLane{
			Lane: int32(l.Lane), Pending: int64(l.Backlog), Oldest: l.Oldest, Parked: int64(l.Parked), Dead: int64(l.Dead),
			Relay: optional(l.Owner), RelayAlive: l.Leased, KeptSince: l.KeptSince,
		}
		v.Pending, v.Parked, v.Dead = v.Pending+int64(l.Backlog), v.Parked+int64(l.Parked), v.Dead+int64(l.Dead)
		if l.Oldest != nil && (v.Oldest == nil || l.Oldest.Before(*v.Oldest)) {
			v.Oldest = l.Oldest
		}
	}
	return api.GetOutbox200JSONResponse{Body: v}, nil
}

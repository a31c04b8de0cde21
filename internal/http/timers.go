package http

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	stdhttp "net/http"
	"net/url"
	"time"

	"github.com/google/uuid"

	"github.com/skald-saga/skald/internal/coordinator"
	"github.com/skald-saga/skald/internal/http/api"
	"github.com/skald-saga/skald/internal/saga"
)

const timersPath = "/v1/timers"

func (s *server) ListTimers(ctx context.Context, req api.ListTimersRequestObject) (api.ListTimersResponseObject, error) {
	ctx, cancel := context.WithTimeout(ctx, callLimit)
	defer cancel()
	f, filter := timerFilter(req.Params)
	if req.Params.Cursor != nil {
		after, err := timerPlace(*req.Params.Cursor, filter)
		if err != nil {
			return nil, err
		}
		f.After = after
	}
	timers, next, more, err := s.Sagas.Timers(ctx, f)
	if err != nil {
		return nil, err
	}
	list := api.ListTimers200JSONResponse{Body: api.TimerList{Items: make([]api.Timer, len(timers)), HasMore: more}}
	for i, t := range timers {
		list.Body.Items[i] = timerView(t)
	}
	if more {
		cursor := timerCursor(next, filter)
		list.Body.NextCursor = &cursor
		filter.Set("cursor", cursor)
		list.Headers.Link = nextLink(timersPath, filter, f.Limit)
	}
	return list, nil
}

// timerFilter reads the filter, and writes it as it stands in links.
func timerFilter(p api.ListTimersParams) (f coordinator.TimerFilter, filter url.Values) {
	filter, f.Limit = url.Values{}, defaultLimit
	if p.Limit != nil {
		f.Limit = int(*p.Limit)
	}
	if p.Saga != nil {
		f.Saga = *p.Saga
		filter.Set("saga", f.Saga.String())
	}
	if p.Definition != nil {
		f.Definition = *p.Definition
		filter.Set("definition", f.Definition)
	}
	if p.Kind != nil {
		f.Kind = saga.TimerKind(*p.Kind)
		filter.Set("kind", string(f.Kind))
	}
	if p.FireBefore != nil {
		f.Before = *p.FireBefore
		filter.Set("fire_before", f.Before.Format(time.RFC3339Nano))
	}
	return f, filter
}

// A cursor is a place in the list, and a hash of the list that it belongs to.
const timerCursorBytes = 8 + 16 + 1 + 8

func timerCursor(p coordinator.TimerPlace, filter url.Values) string {
	b := binary.BigEndian.AppendUint64(nil, uint64(p.WakeAt.UnixMicro()))
	b = append(append(b, p.Saga[:]...), byte(p.Timer)) // a saga has at most 102
	list := sha256.Sum256([]byte(timersPath + "?" + filter.Encode()))
	return base64.RawURLEncoding.EncodeToString(append(b, list[:8]...))
}

func timerPlace(cursor string, filter url.Values) (coordinator.TimerPlace, error) {
	b, err := base64.RawURLEncoding.Strict().DecodeString(cursor)
	if err != nil || len(b) != timerCursorBytes {
		return coordinator.TimerPlace{}, at(api.ProblemCodeBadRequest, "query:cursor", "is not a cursor: use next_cursor of the page before")
	}
	p := coordinator.TimerPlace{
		WakeAt: time.UnixMicro(int64(binary.BigEndian.Uint64(b))), Saga: uuid.UUID(b[8:24]), Timer: int(b[24]),
	}
	if timerCursor(p, filter) != cursor {
		return coordinator.TimerPlace{}, at(api.ProblemCodeCursorMismatch, "query:cursor", "belongs to a list with another filter")
	}
	return p, nil
}

func (s *server) MoveTimer(ctx context.Context, req api.MoveTimerRequestObject) (api.MoveTimerResponseObject, error) {
	now := req.Body.FireNow != nil && *req.Body.FireNow
	if now == (req.Body.FireAt != nil) {
		return nil, at(api.ProblemCodeInputInvalid, "#", "must say either fire_at or fire_now")
	}
	fireAt := time.Unix(0, 0) // the past is now
	if !now && req.Body.FireAt.After(fireAt) {
		fireAt = *req.Body.FireAt
	}
	timer, err := s.moveTimer(ctx, req.Id, req.Params.IfMatch, req.Body.Reason, fireAt)
	if err != nil {
		return nil, err
	}
	return resource{status: stdhttp.StatusOK, version: timer.Version, body: timerView(timer)}, nil
}

func (s *server) RemoveTimer(ctx context.Context, req api.RemoveTimerRequestObject) (api.RemoveTimerResponseObject, error) {
	timer, err := s.moveTimer(ctx, req.Id, req.Params.IfMatch, req.Params.Reason, time.Time{})
	if err != nil {
		return nil, err
	}
	version := etag(timer.Version)
	return api.RemoveTimer204Response{Headers: api.RemoveTimer204ResponseHeaders{ETag: &version}}, nil
}

// moveTimer moves a timer, or removes it if the time is zero.
func (s *server) moveTimer(ctx context.Context, name string, ifMatch *api.IfMatch, reason *string, fireAt time.Time) (coordinator.Timer, error) {
	ctx, cancel := context.WithTimeout(ctx, callLimit)
	defer cancel()
	id, err := coordinator.ParseTimerID(name)
	if err != nil {
		return coordinator.Timer{}, err
	}
	op := asked(reason)
	if op.IfVersion, err = s.expected(ctx, id.Saga, ifMatch); err != nil {
		return coordinator.Timer{}, err
	}
	timer, err := s.Sagas.MoveTimer(ctx, id, op, fireAt)
	if errors.Is(err, coordinator.ErrStartTime) {
		return coordinator.Timer{}, at(api.ProblemCodeInputInvalid, "#/fire_at", "must not be more than 366 days ahead")
	}
	return timer, err
}

func timerView(t coordinator.Timer) api.Timer {
	return api.Timer{
		Id: t.ID.String(), Kind: api.TimerKind(t.ID.Kind), SagaId: t.ID.Saga, SagaVersion: t.Version, Definition: t.Definition,
		Step: optional(t.ID.Step), Phase: optional(string(t.ID.Phase)), Generation: optional(int32(t.ID.Generation)),
		Attempt: optional(int32(t.ID.Attempt)), FireAt: t.FireAt, Links: api.Links{Self: timersPath + "/" + t.ID.String(), Saga: optional(sagasPath + "/" + t.ID.Saga.String())},
	}
}

func (a resource) VisitMoveTimerResponse(w stdhttp.ResponseWriter) error { return a.write(w) }

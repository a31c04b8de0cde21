package http

import (
	"context"
	"encoding/json"
	"errors"
	"net/url"
	"strconv"

	"github.com/google/uuid"

	"github.com/skald-saga/skald/internal/coordinator"
	"github.com/skald-saga/skald/internal/http/api"
)

const sagasPath = "/v1/sagas"

func (s *server) StartSaga(ctx context.Context, req api.StartSagaRequestObject) (api.StartSagaResponseObject, error) {
	start := coordinator.StartRequest{Definition: req.Body.Definition, Input: req.Body.Input}
	if req.Body.Version != nil {
		start.Version = int(*req.Body.Version)
	}
	if req.Body.Key != nil {
		start.Name = *req.Body.Key
	}
	if req.Body.Labels != nil {
		start.Labels = *req.Body.Labels
		for name := range start.Labels {
			if shownName(name) != name {
				return nil, at(api.ProblemCodeInputInvalid, "#/labels", "must have names of 1 to 64 letters, digits, '_', '-' and '.'")
			}
		}
	}
	if req.Body.StartAt != nil {
		start.StartAt = *req.Body.StartAt
	}
	answer, saga, err := s.start(ctx, start, sagasPath, req.Params.IdempotencyKey, req.Params.Prefer)
	if err == nil {
		err = s.countStale(ctx, answer, &saga)
	}
	var input *coordinator.InputError
	switch {
	case errors.Is(err, coordinator.ErrUnknownDefinition):
		return nil, at(api.ProblemCodeUnknownDefinition, "#/definition", "is not registered, or not in this version")
	case errors.Is(err, coordinator.ErrStartTime):
		return nil, at(api.ProblemCodeInputInvalid, "#/start_at", "must not be more than 5 minutes ago, nor more than 366 days ahead")
	case errors.Is(err, coordinator.ErrDeprecated):
		return nil, at(api.ProblemCodeDefinitionDeprecated, "#/definition", "is deprecated: no new sagas of it are started")
	case errors.As(err, &input):
		return nil, inputFailure(input, "#/input")
	case err != nil:
		return nil, err
	}
	answer.body = sagaView(saga)
	return answer, nil
}

// countStale looks again after a wait: stale replies are no change of a saga, so
// those who wait for one are not told of them.
func (s *server) countStale(ctx context.Context, answer resource, saga *coordinator.Saga) (err error) {
	if !answer.wait.asked {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), callLimit)
	defer cancel()
	saga.StaleReplies, err = s.Sagas.StaleReplies(ctx, saga.ID)
	return err
}

func (s *server) GetSaga(ctx context.Context, req api.GetSagaRequestObject) (api.GetSagaResponseObject, error) {
	answer, saga, err := s.get(ctx, req.Id, s.Sagas.Get, req.Params.IfNoneMatch, req.Params.Prefer)
	if err == nil {
		err = s.countStale(ctx, answer, &saga)
	}
	if err != nil {
		return nil, err
	}
	answer.body = sagaView(saga)
	return answer, nil
}

func (s *server) ListSagas(ctx context.Context, req api.ListSagasRequestObject) (api.ListSagasResponseObject, error) {
	ctx, cancel := context.WithTimeout(ctx, callLimit)
	defer cancel()
	f, filter := searchOf(req.Params, callOf(ctx).open)
	page, err := newPage(sagasPath, filter, req.Params.Limit, req.Params.Cursor)
	if err != nil {
		return nil, err
	}
	f.Limit, f.Before = page.limit, page.before
	sagas, next, err := s.Sagas.List(ctx, f)
	if err != nil {
		return nil, err
	}
	more := next != uuid.Nil
	list := api.ListSagas200JSONResponse{Body: api.SagaList{Items: make([]api.Saga, len(sagas)), HasMore: more}}
	for i, v := range sagas {
		list.Body.Items[i] = sagaView(v)
	}
	if more {
		list.Body.NextCursor, list.Headers.Link = page.next(next)
	}
	return list, nil
}

func (s *server) GetSagaHistory(ctx context.Context, req api.GetSagaHistoryRequestObject) (api.GetSagaHistoryResponseObject, error) {
	ctx, cancel := context.WithTimeout(ctx, callLimit)
	defer cancel()
	after, limit := 0, defaultLimit
	if req.Params.After != nil {
		after = int(*req.Params.After)
	}
	if req.Params.Limit != nil {
		limit = int(*req.Params.Limit)
	}
	events, more, err := s.Sagas.History(ctx, req.Id, after, limit)
	if err != nil {
		return nil, err
	}
	list := api.GetSagaHistory200JSONResponse{Body: api.History{Items: make([]api.HistoryEvent, len(events)), HasMore: more}}
	for i, e := range events {
		list.Body.Items[i] = eventView(e)
	}
	if more {
		last := events[len(events)-1].Seq
		next := int32(last)
		list.Body.NextAfter = &next
		list.Headers.Link = nextLink(sagasPath+"/"+req.Id.String()+"/history", url.Values{"after": {strconv.Itoa(last)}}, limit)
	}
	return list, nil
}

// sagaView is a saga as clients see it.
func sagaView(s coordinator.Saga) api.Saga {
	v := api.Saga{
		Id: s.ID, Key: optional(s.Key), Definition: s.Definition, DefinitionVersion: int32(s.DefinitionVersion), Version: s.Version,
		Status: api.SagaStatus(s.Status), Input: s.Input, Steps: make([]api.Step, len(s.Steps)), Error: failureView(s.Error),
		CancelRequested: s.CancelRequested, Overdue: s.Overdue, Paused: s.PausedAt != nil, PausedAt: s.PausedAt,
		WaitingFor: optional(string(s.WaitsFor)), StartAt: s.StartAt, StaleReplies: int32(s.StaleReplies),
		CreatedAt: s.CreatedAt, UpdatedAt: s.UpdatedAt, EndedAt: s.EndedAt, Actions: append([]string{}, s.Actions...),
		Links: links(sagasPath, s),
	}
	if s.Lock != nil {
		v.Lock = &api.Lock{Key: s.Lock.Key, State: string(s.Lock.State), Position: optional(int32(s.Lock.Position))}
		if s.Lock.Holder != uuid.Nil {
			v.Lock.Holder = &s.Lock.Holder
		}
	}
	v.Links.History = optional(v.Links.Self + "/history")
	if len(s.Labels) > 0 {
		v.Labels = &s.Labels
	}
	if s.RestartOf != "" {
		v.Links.RestartOf = optional(sagasPath + "/" + s.RestartOf)
	}
	if s.RestartedAs != uuid.Nil {
		v.Links.RestartedAs = optional(sagasPath + "/" + s.RestartedAs.String())
	}
	if s.Errors != nil {
		all := make([]api.StepFailure, len(s.Errors))
		for i, e := range s.Errors {
			all[i] = api.StepFailure{Step: e.Step, Phase: string(e.Phase), Code: e.Code, Message: optional(e.Message)}
		}
		v.Errors = &all
	}
	for i, st := range s.Steps {
		v.Steps[i] = api.Step{
			Name: st.Name, Participant: st.Participant, Kind: api.StepKind(st.Kind), Status: api.StepStatus(st.Status),
			Attempt: int32(st.Attempt), CompensationAttempt: int32(st.CompensationAttempt),
			Result: resultView(st.Result), Error: failureView(st.Error), DueAt: st.DueAt, StuckPhase: optional(string(st.StuckPhase)),
		}
		if st.Resolutions != nil {
			v.Steps[i].Resolutions = &st.Resolutions
		}
	}
	return v
}

func eventView(e coordinator.HistoryEvent) api.HistoryEvent {
	return api.HistoryEvent{
		Seq: int32(e.Seq), Version: e.Version, At: e.At, Type: e.Type, Step: optional(e.Step), Phase: optional(e.Phase),
		Attempt: optional(int32(e.Attempt)), Generation: optional(int32(e.Generation)), DueAt: e.DueAt, StartAt: e.StartAt, Lock: optional(e.Lock),
		Result: resultView(e.Result), Error: failureView(e.Error), Reason: optional(e.Reason), Actor: optional(e.Actor),
		Payload: e.Payload, RestartOf: optional(e.RestartOf),
	}
}

// links are the places that a saga or an order at path leads to.
func links(path string, s coordinator.Saga) api.Links {
	self := path + "/" + s.ID.String()
	l := api.Links{Self: self}
	for _, action := range s.Actions {
		if action == "cancel" {
			l.Cancel = optional(self + "/cancel")
		}
	}
	return l
}

// resultView leaves out what says nothing.
func resultView(result json.RawMessage) api.Result {
	if string(result) == "null" {
		return nil
	}
	return result
}

func failureView(f *coordinator.Failure) *api.Failure {
	if f == nil {
		return nil
	}
	return &api.Failure{Code: f.Code, Message: optional(f.Message), Step: optional(f.Step)}
}

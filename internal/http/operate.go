package http

import (
	"context"
	"errors"
	stdhttp "net/http"

	"github.com/google/uuid"

	"github.com/skald-saga/skald/internal/coordinator"
	"github.com/skald-saga/skald/internal/http/api"
	"github.com/skald-saga/skald/internal/saga"
)

// verb asks the coordinator for what an operator wants.
type verb func(context.Context, coordinator.Operation) (coordinator.Saga, error)

// operate is what all verbs have in common. The answer lacks its body.
func (s *server) operate(ctx context.Context, id uuid.UUID, path string, ifMatch *api.IfMatch, reason *string, do verb) (resource, coordinator.Saga, error) {
	ctx, cancel := context.WithTimeout(ctx, callLimit)
	defer cancel()
	version, err := s.expected(ctx, id, ifMatch)
	if err != nil {
		return resource{}, coordinator.Saga{}, err
	}
	op := asked(reason)
	op.IfVersion = version
	saga, err := do(ctx, op)
	if err != nil {
		return resource{}, coordinator.Saga{}, err
	}
	return resource{status: stdhttp.StatusAccepted, version: saga.Version, location: path + "/" + id.String()}, saga, nil
}

// asked is an operator's request that is about no version.
func asked(reason *string) coordinator.Operation {
	op := coordinator.Operation{Actor: anonymous}
	if reason != nil {
		op.Reason = *reason
	}
	return op
}

// operateSaga is a verb whose answer is the saga.
func (s *server) operateSaga(ctx context.Context, id uuid.UUID, ifMatch *api.IfMatch, reason *string, do verb) (resource, error) {
	answer, saga, err := s.operate(ctx, id, sagasPath, ifMatch, reason, do)
	if err != nil {
		return resource{}, err
	}
	answer.body = sagaView(saga)
	return answer, nil
}

func (s *server) CancelSaga(ctx context.Context, req api.CancelSagaRequestObject) (api.CancelSagaResponseObject, error) {
	return s.operateSaga(ctx, req.Id, req.Params.IfMatch, cancelReason(req.Body), func(ctx context.Context, op coordinator.Operation) (coordinator.Saga, error) {
		return s.Sagas.Cancel(ctx, req.Id, op)
	})
}

// cancelReason is the reason of a request that may lack its body.
func cancelReason(body *api.CancelRequest) *string {
	if body == nil {
		return nil
	}
	return body.Reason
}

func (s *server) RetrySaga(ctx context.Context, req api.RetrySagaRequestObject) (api.RetrySagaResponseObject, error) {
	if req.Body == nil {
		req.Body = &api.RetryRequest{}
	}
	step := ""
	if req.Body.Step != nil {
		step = *req.Body.Step
	}
	if req.Body.Payload != nil && step == "" {
		return nil, at(api.ProblemCodeInputInvalid, "#/step", "must be given with a payload: it is for one step")
	}
	return s.operateSaga(ctx, req.Id, req.Params.IfMatch, req.Body.Reason, func(ctx context.Context, op coordinator.Operation) (coordinator.Saga, error) {
		return s.Sagas.Retry(ctx, req.Id, op, step, req.Body.Payload)
	})
}

func (s *server) ResolveSagaStep(ctx context.Context, req api.ResolveSagaStepRequestObject) (api.ResolveSagaStepResponseObject, error) {
	r := coordinator.Resolution{
		Step: req.Step, Phase: saga.Phase(req.Body.Phase), Outcome: saga.Resolution(req.Body.Outcome), Result: req.Body.Result,
	}
	if r.Result != nil && (r.Phase != saga.Action || r.Outcome != saga.ResolveSucceeded) {
		return nil, at(api.ProblemCodeInputInvalid, "#/result", "belongs to an action that succeeded, and to nothing else")
	}
	return s.operateSaga(ctx, req.Id, req.Params.IfMatch, &req.Body.Reason, func(ctx context.Context, op coordinator.Operation) (coordinator.Saga, error) {
		return s.Sagas.Resolve(ctx, req.Id, op, r)
	})
}

func (s *server) PauseSaga(ctx context.Context, req api.PauseSagaRequestObject) (api.PauseSagaResponseObject, error) {
	return s.operateSaga(ctx, req.Id, req.Params.IfMatch, reasonOf(req.Body), func(ctx context.Context, op coordinator.Operation) (coordinator.Saga, error) {
		return s.Sagas.Pause(ctx, req.Id, op)
	})
}

func (s *server) ResumeSaga(ctx context.Context, req api.ResumeSagaRequestObject) (api.ResumeSagaResponseObject, error) {
	return s.operateSaga(ctx, req.Id, req.Params.IfMatch, reasonOf(req.Body), func(ctx context.Context, op coordinator.Operation) (coordinator.Saga, error) {
		return s.Sagas.Resume(ctx, req.Id, op)
	})
}

func reasonOf(body *api.ReasonRequest) *string {
	if body == nil {
		return nil
	}
	return body.Reason
}

func (s *server) AbandonSaga(ctx context.Context, req api.AbandonSagaRequestObject) (api.AbandonSagaResponseObject, error) {
	return s.operateSaga(ctx, req.Id, req.Params.IfMatch, &req.Body.Reason, func(ctx context.Context, op coordinator.Operation) (coordinator.Saga, error) {
		return s.Sagas.Abandon(ctx, req.Id, op)
	})
}

func (s *server) RestartSaga(ctx context.Context, req api.RestartSagaRequestObject) (api.RestartSagaResponseObject, error) {
	ctx, cancel := context.WithTimeout(ctx, callLimit)
	defer cancel()
	version, err := s.expected(ctx, req.Id, req.Params.IfMatch)
	if err != nil {
		return nil, err
	}
	op := coordinator.Operation{Actor: anonymous, IfVersion: version}
	again := coordinator.RestartRequest{Trace: callOf(ctx).trace}
	if req.Body != nil {
		if req.Body.Reason != nil {
			op.Reason = *req.Body.Reason
		}
		if req.Body.Version != nil {
			again.Version = int(*req.Body.Version)
		}
	}
	started, err := s.Sagas.Restart(ctx, req.Id, op, again)
	if errors.Is(err, coordinator.ErrUnknownDefinition) {
		return nil, at(api.ProblemCodeUnknownDefinition, "#/version", "is not registered")
	}
	if err != nil {
		return nil, err
	}
	return startedAnswer(started.Saga, started.Replayed), nil
}

// startedAnswer tells of a saga that was started, now or before.
func startedAnswer(saga coordinator.Saga, replayed bool) resource {
	a := resource{
		status: stdhttp.StatusAccepted, version: saga.Version, location: sagasPath + "/" + saga.ID.String(), replayed: replayed, body: sagaView(saga),
	}
	if saga.Ended() {
		a.status = stdhttp.StatusOK
	}
	return a
}

func (a resource) VisitCancelSagaResponse(w stdhttp.ResponseWriter) error      { return a.write(w) }
func (a resource) VisitRetrySagaResponse(w stdhttp.ResponseWriter) error       { return a.write(w) }
func (a resource) VisitResolveSagaStepResponse(w stdhttp.ResponseWriter) error { return a.write(w) }
func (a resource) VisitPauseSagaResponse(w stdhttp.ResponseWriter) error       { return a.write(w) }
func (a resource) VisitResumeSagaResponse(w stdhttp.ResponseWriter) error      { return a.write(w) }
func (a resource) VisitRestartSagaResponse(w stdhttp.ResponseWriter) error     { return a.write(w) }
func (a resource) VisitAbandonSagaResponse(w stdhttp.ResponseWriter) error     { return a.write(w) }

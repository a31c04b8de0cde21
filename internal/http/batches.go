package http

import (
	"context"
	stdhttp "net/http"
	"net/url"

	"github.com/google/uuid"

	"github.com/skald-saga/skald/internal/coordinator"
	"github.com/skald-saga/skald/internal/http/api"
	"github.com/skald-saga/skald/internal/saga"
)

const batchesPath = "/v1/batch-operations"

func (s *server) StartBatchOperation(ctx context.Context, req api.StartBatchOperationRequestObject) (api.StartBatchOperationResponseObject, error) {
	ctx, cancel := context.WithTimeout(ctx, callLimit)
	defer cancel()
	r, err := batchRequest(*req.Body)
	if err != nil {
		return nil, err
	}
	if req.Body.DryRun != nil && *req.Body.DryRun {
		matched, sample, err := s.Sagas.Match(ctx, r)
		if err != nil {
			return nil, err
		}
		return api.StartBatchOperation200JSONResponse{Body: api.BatchDryRun{
			Action: r.Action, Matched: int32(matched), Sample: append([]uuid.UUID{}, sample...),
		}}, nil
	}
	if req.Params.IdempotencyKey != nil {
		r.Key = &coordinator.IdempotencyKey{
			Principal: anonymous, Route: stdhttp.MethodPost + " " + batchesPath, Key: bareKey(*req.Params.IdempotencyKey),
			Fingerprint: callOf(ctx).fingerprint,
		}
	}
	b, replayed, err := s.Sagas.StartBatch(ctx, r, asked(&req.Body.Reason))
	if err != nil {
		return nil, err
	}
	answer := api.StartBatchOperation202JSONResponse{Body: batchView(b)}
	answer.Headers.Location = optional(answer.Body.Links.Self)
	answer.Headers.IdempotentReplayed = optional(replayed)
	return answer, nil
}

// batchRequest checks what openapi.yaml cannot say: which parts belong to which
// action.
func batchRequest(body api.BatchRequest) (coordinator.BatchRequest, error) {
	r := coordinator.BatchRequest{Action: string(body.Action)}
	f := &failure{code: api.ProblemCodeInputInvalid}
	switch {
	case body.Filter != nil && body.Ids != nil:
		f.add("#/ids", "cannot be given together with a filter")
	case body.Ids != nil:
		r.IDs = *body.Ids
	case body.Filter == nil || (body.Filter.Status == nil && body.Filter.Definition == nil && body.Filter.Lock == nil):
		return r, at(api.ProblemCodeFilterEmpty, "#/filter", "must have a condition, or ids must be given in its place")
	default:
		r.Filter = sagaFilter(*body.Filter)
	}
	resolve := r.Action == "resolve"
	retry := r.Action == "retry"
	for _, part := range []struct {
		name             string
		given, fits, due bool
	}{
		{"step", body.Step != nil, resolve || retry, resolve}, {"phase", body.Phase != nil, resolve, resolve},
		{"outcome", body.Outcome != nil, resolve, resolve}, {"result", body.Result != nil, resolve, false},
		{"version", body.Version != nil, r.Action == "restart", false},
	} {
		switch {
		case part.given && !part.fits:
			f.add("#/"+part.name, "does not belong to this action")
		case part.due && !part.given:
			f.add("#/"+part.name, "is required to resolve")
		}
	}
	if len(f.errors) > 0 {
		return r, f
	}
	if body.Step != nil {
		r.Options.Step = *body.Step
	}
	if body.Version != nil {
		r.Options.Version = int(*body.Version)
	}
	if resolve {
		r.Options.Phase, r.Options.Outcome, r.Options.Result = saga.Phase(*body.Phase), saga.Resolution(*body.Outcome), body.Result
		if r.Options.Result != nil && (r.Options.Phase != saga.Action || r.Options.Outcome != saga.ResolveSucceeded) {
			return r, at(api.ProblemCodeInputInvalid, "#/result", "belongs to an action that succeeded, and to nothing else")
		}
	}
	return r, nil
}

func sagaFilter(body api.SagaFilter) *coordinator.SagaFilter {
	f := &coordinator.SagaFilter{}
	if body.Status != nil {
		for _, status := range *body.Status {
			f.Statuses = append(f.Statuses, saga.Status(status))
		}
	}
	if body.Definition != nil {
		f.Definition = *body.Definition
	}
	if body.Lock != nil {
		f.Lock = *body.Lock
	}
	return f
}

func filterView(f *coordinator.SagaFilter) *api.SagaFilter {
	if f == nil {
		return nil
	}
	v := &api.SagaFilter{Definition: optional(f.Definition), Lock: optional(f.Lock)}
	if f.Statuses != nil {
		statuses := make([]api.SagaStatus, len(f.Statuses))
		for i, status := range f.Statuses {
			statuses[i] = api.SagaStatus(status)
		}
		v.Status = &statuses
	}
	return v
}

func (s *server) ListBatchOperations(ctx context.Context, req api.ListBatchOperationsRequestObject) (api.ListBatchOperationsResponseObject, error) {
	ctx, cancel := context.WithTimeout(ctx, callLimit)
	defer cancel()
	page, err := newPage(batchesPath, url.Values{}, req.Params.Limit, req.Params.Cursor)
	if err != nil {
		return nil, err
	}
	batches, more, err := s.Sagas.Batches(ctx, page.before, page.limit)
	if err != nil {
		return nil, err
	}
	list := api.ListBatchOperations200JSONResponse{Body: api.BatchOperationList{Items: make([]api.BatchOperation, len(batches)), HasMore: more}}
	for i, b := range batches {
		list.Body.Items[i] = batchView(b)
	}
	if more {
		list.Body.NextCursor, list.Headers.Link = page.next(batches[len(batches)-1].ID)
	}
	return list, nil
}

func (s *server) GetBatchOperation(ctx context.Context, req api.GetBatchOperationRequestObject) (api.GetBatchOperationResponseObject, error) {
	ctx, cancel := context.WithTimeout(ctx, callLimit)
	defer cancel()
	b, err := s.Sagas.Batch(ctx, req.Id)
	if err != nil {
		return nil, err
	}
	return api.GetBatchOperation200JSONResponse{Body: batchView(b)}, nil
}

func (s *server) ListBatchItems(ctx context.Context, req api.ListBatchItemsRequestObject) (api.ListBatchItemsResponseObject, error) {
	ctx, cancel := context.WithTimeout(ctx, callLimit)
	defer cancel()
	filter, outcome := url.Values{}, ""
	if req.Params.Outcome != nil {
		outcome = string(*req.Params.Outcome)
		filter.Set("outcome", outcome)
	}
	page, err := newPage(batchesPath+"/"+req.Id.String()+"/items", filter, req.Params.Limit, req.Params.Cursor)
	if err != nil {
		return nil, err
	}
	items, more, err := s.Sagas.BatchItems(ctx, req.Id, outcome, page.before, page.limit)
	if err != nil {
		return nil, err
	}
	list := api.ListBatchItems200JSONResponse{Body: api.BatchItemList{Items: make([]api.BatchItem, len(items)), HasMore: more}}
	for i, item := range items {
		list.Body.Items[i] = api.BatchItem{SagaId: item.Saga, At: item.At, Outcome: api.BatchOutcome(item.Outcome), Code: optional(item.Code)}
	}
	if more {
		list.Body.NextCursor, list.Headers.Link = page.next(items[len(items)-1].Saga)
	}
	return list, nil
}

func (s *server) CancelBatchOperation(ctx context.Context, req api.CancelBatchOperationRequestObject) (api.CancelBatchOperationResponseObject, error) {
	ctx, cancel := context.WithTimeout(ctx, callLimit)
	defer cancel()
	b, err := s.Sagas.CancelBatch(ctx, req.Id, asked(reasonOf(req.Body)))
	if err != nil {
		return nil, err
	}
	return api.CancelBatchOperation202JSONResponse{Body: batchView(b)}, nil
}

func batchView(b coordinator.Batch) api.BatchOperation {
	v := api.BatchOperation{
		Id: b.ID, Action: b.Action, Filter: filterView(b.Filter), Step: optional(b.Options.Step), Phase: optional(string(b.Options.Phase)),
		Outcome: optional(string(b.Options.Outcome)), Version: optional(int32(b.Options.Version)), Actor: b.Actor, Reason: b.Reason,
		Status: b.Status, Matched: int32(b.Matched), Outcomes: map[string]int32{}, CreatedAt: b.CreatedAt, EndedAt: b.EndedAt,
	}
	if b.IDs != nil {
		v.Ids = &b.IDs
	}
	for outcome, n := range b.Outcomes {
		v.Outcomes[outcome] = int32(n)
		v.Done += int32(n)
	}
	v.Links.Self = batchesPath + "/" + b.ID.String()
	v.Links.Items = v.Links.Self + "/items"
	return v
}

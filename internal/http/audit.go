package http

import (
	"context"
	"net/url"
	"time"

	"github.com/skald-saga/skald/internal/coordinator"
	"github.com/skald-saga/skald/internal/http/api"
)

const auditPath = "/v1/audit-log"

func (s *server) ListAuditLog(ctx context.Context, req api.ListAuditLogRequestObject) (api.ListAuditLogResponseObject, error) {
	ctx, cancel := context.WithTimeout(ctx, callLimit)
	defer cancel()
	f, filter := auditFilter(req.Params)
	page, err := newPage(auditPath, filter, req.Params.Limit, req.Params.Cursor)
	if err != nil {
		return nil, err
	}
	f.Limit, f.Before = page.limit, page.before
	entries, more, err := s.Sagas.AuditLog(ctx, f)
	if err != nil {
		return nil, err
	}
	list := api.ListAuditLog200JSONResponse{Body: api.AuditLog{Items: make([]api.AuditEntry, len(entries)), HasMore: more}}
	for i, e := range entries {
		list.Body.Items[i] = auditView(e)
	}
	if more {
		list.Body.NextCursor, list.Headers.Link = page.next(entries[len(entries)-1].ID)
	}
	return list, nil
}

// auditFilter reads the filter, and writes it as it stands in links.
func auditFilter(p api.ListAuditLogParams) (f coordinator.AuditFilter, filter url.Values) {
	filter = url.Values{}
	if p.Saga != nil {
		f.Saga = p.Saga.String()
		filter.Set("saga", f.Saga)
	}
	if p.Actor != nil {
		f.Actor = *p.Actor
		filter.Set("actor", f.Actor)
	}
	if p.Action != nil {
		f.Action = *p.Action
		filter.Set("action", f.Action)
	}
	if p.From != nil {
		f.From = *p.From
		filter.Set("from", f.From.Format(time.RFC3339Nano))
	}
	if p.To != nil {
		f.To = *p.To
		filter.Set("to", f.To.Format(time.RFC3339Nano))
	}
	return f, filter
}

func auditView(e coordinator.AuditEntry) api.AuditEntry {
	return api.AuditEntry{
		Id: e.ID, At: e.At, Actor: e.Actor, Action: e.Action, Reason: optional(e.Reason), Target: e.Target, TargetId: e.TargetID,
		Outcome: e.Outcome, Before: pointView(e.Before), After: pointView(e.After), Details: e.Details,
	}
}

func pointView(p coordinator.SagaPoint) *api.SagaPoint {
	if p.Version == 0 {
		return nil
	}
	return &api.SagaPoint{Version: p.Version, Status: api.SagaStatus(p.Status)}
}

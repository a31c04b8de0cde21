package http

import (
	"context"
	"errors"
	"io"
	"net/url"
	"strconv"

	"github.com/skald-saga/skald/internal/coordinator"
	"github.com/skald-saga/skald/internal/http/api"
	"github.com/skald-saga/skald/internal/saga"
)

const definitionsPath = "/v1/definitions"

func (s *server) ListDefinitions(ctx context.Context, req api.ListDefinitionsRequestObject) (api.ListDefinitionsResponseObject, error) {
	ctx, cancel := context.WithTimeout(ctx, callLimit)
	defer cancel()
	after, limit := "", defaultLimit
	if req.Params.After != nil {
		after = *req.Params.After
	}
	if req.Params.Limit != nil {
		limit = int(*req.Params.Limit)
	}
	found, more, err := s.Sagas.ListDefinitions(ctx, after, limit)
	if err != nil {
		return nil, err
	}
	list := api.ListDefinitions200JSONResponse{Body: api.DefinitionList{Items: make([]api.Definition, len(found)), HasMore: more}}
	for i, d := range found {
		list.Body.Items[i] = definitionView(d)
	}
	if more {
		last := found[len(found)-1].Current.Name
		list.Body.NextAfter, list.Headers.Link = &last, nextLink(definitionsPath, url.Values{"after": {last}}, limit)
	}
	return list, nil
}

func (s *server) GetDefinition(ctx context.Context, req api.GetDefinitionRequestObject) (api.GetDefinitionResponseObject, error) {
	ctx, cancel := context.WithTimeout(ctx, callLimit)
	defer cancel()
	d, err := s.Sagas.GetDefinition(ctx, req.Name)
	return api.GetDefinition200JSONResponse{Body: definitionView(d)}, err
}

func (s *server) ListDefinitionVersions(ctx context.Context, req api.ListDefinitionVersionsRequestObject) (api.ListDefinitionVersionsResponseObject, error) {
	ctx, cancel := context.WithTimeout(ctx, callLimit)
	defer cancel()
	before, limit := 0, defaultLimit
	if req.Params.Before != nil {
		before = int(*req.Params.Before)
	}
	if req.Params.Limit != nil {
		limit = int(*req.Params.Limit)
	}
	versions, more, err := s.Sagas.DefinitionVersions(ctx, req.Name, before, limit)
	if err != nil {
		return nil, err
	}
	list := api.ListDefinitionVersions200JSONResponse{Body: api.DefinitionVersionList{Items: make([]api.DefinitionVersionReport, len(versions)), HasMore: more}}
	for i, v := range versions {
		r := &list.Body.Items[i]
		r.Version, r.Digest, r.CreatedAt, r.Current = int32(v.Version), v.Digest, v.CreatedAt, v.Current
		r.Open.Running, r.Open.Compensating, r.Open.Stuck = int32(v.Open[saga.Running]), int32(v.Open[saga.Compensating]), int32(v.Open[saga.Stuck])
	}
	if more {
		last := int32(versions[len(versions)-1].Version)
		list.Body.NextBefore = &last
		list.Headers.Link = nextLink(definitionsPath+"/"+req.Name+"/versions", url.Values{"before": {strconv.Itoa(int(last))}}, limit)
	}
	return list, nil
}

func (s *server) GetDefinitionVersion(ctx context.Context, req api.GetDefinitionVersionRequestObject) (api.GetDefinitionVersionResponseObject, error) {
	ctx, cancel := context.WithTimeout(ctx, callLimit)
	defer cancel()
	v, err := s.Sagas.GetDefinitionVersion(ctx, req.Name, int(req.Version))
	return api.GetDefinitionVersion200JSONResponse{Body: api.DefinitionVersion{
		Name: v.Name, Version: int32(v.Version), Digest: v.Digest, CreatedAt: v.CreatedAt, Current: v.Current, Source: v.Source,
	}}, err
}

func (s *server) PutDefinition(ctx context.Context, req api.PutDefinitionRequestObject) (api.PutDefinitionResponseObject, error) {
	ctx, cancel := context.WithTimeout(ctx, callLimit)
	defer cancel()
	def, err := definitionOf(req)
	if err != nil {
		return nil, err
	}
	answer := api.PutDefinition{Name: def.Name, Digest: def.Digest}
	if req.Params.DryRun != nil && *req.Params.DryRun {
		return api.PutDefinition200JSONResponse{Body: answer}, nil
	}
	stored, created, err := s.Sagas.Define(ctx, def, coordinator.Operation{Actor: anonymous})
	if err != nil {
		return nil, err
	}
	version, deprecated := int32(stored.Version), stored.Deprecated
	answer.Version, answer.Created, answer.Deprecated = &version, created, &deprecated
	if !created {
		return api.PutDefinition200JSONResponse{Body: answer}, nil
	}
	location := definitionsPath + "/" + def.Name + "/versions/" + strconv.Itoa(stored.Version)
	return api.PutDefinition201JSONResponse{Body: answer, Headers: api.PutDefinition201ResponseHeaders{Location: &location}}, nil
}

// definitionOf reads the definition that is put: JSON, with all that JSON may
// have and YAML has otherwise, or YAML.
func definitionOf(req api.PutDefinitionRequestObject) (*saga.Definition, error) {
	var text []byte
	if req.JSONBody != nil {
		value, err := parseJSON(*req.JSONBody)
		if err != nil {
			return nil, err
		}
		text = canonicalJSON(value)
	} else {
		var err error
		if text, err = io.ReadAll(req.Body); err != nil {
			return nil, at(api.ProblemCodeBadRequest, "#", "was not sent completely")
		}
	}
	def, err := coordinator.ParseDefinition(text)
	var wrong *saga.ParseError
	switch {
	case errors.As(err, &wrong):
		return nil, definitionFailure(wrong, req.JSONBody == nil)
	case err != nil:
		return nil, err
	case def.Name != req.Name:
		return nil, at(api.ProblemCodeDefinitionInvalid, "#/name", "must be the name in the path")
	}
	return def, nil
}

// maxDefinitionErrors bounds an answer; a definition that has more is none.
const maxDefinitionErrors = 500

func definitionFailure(wrong *saga.ParseError, lines bool) *failure {
	f := &failure{code: api.ProblemCodeDefinitionInvalid}
	for _, p := range wrong.Problems[:min(len(wrong.Problems), maxDefinitionErrors)] {
		e := api.FieldError{Pointer: pointer(p.Path), Detail: p.Detail}
		if lines {
			e.Line = optional(int32(p.Line))
		}
		f.errors = append(f.errors, e)
	}
	return f
}

func (s *server) DeprecateDefinition(ctx context.Context, req api.DeprecateDefinitionRequestObject) (api.DeprecateDefinitionResponseObject, error) {
	ctx, cancel := context.WithTimeout(ctx, callLimit)
	defer cancel()
	d, err := s.Sagas.Deprecate(ctx, req.Name, operationOf(req.Body))
	return api.DeprecateDefinition200JSONResponse{Body: definitionView(d)}, err
}

func (s *server) UndeprecateDefinition(ctx context.Context, req api.UndeprecateDefinitionRequestObject) (api.UndeprecateDefinitionResponseObject, error) {
	ctx, cancel := context.WithTimeout(ctx, callLimit)
	defer cancel()
	d, err := s.Sagas.Undeprecate(ctx, req.Name, operationOf(req.Body))
	return api.UndeprecateDefinition200JSONResponse{Body: definitionView(d)}, err
}

func operationOf(body *api.ReasonRequest) coordinator.Operation {
	op := coordinator.Operation{Actor: anonymous}
	if body != nil && body.Reason != nil {
		op.Reason = *body.Reason
	}
	return op
}

func definitionView(d coordinator.DefinitionInfo) api.Definition {
	v := api.Definition{
		Name: d.Current.Name, Version: int32(d.Current.Version), Digest: d.Current.Digest, CreatedAt: d.Current.CreatedAt,
		Deprecated: d.DeprecatedAt != nil, DeprecatedAt: d.DeprecatedAt, DeprecatedReason: optional(d.DeprecatedReason), Source: d.Current.Source,
	}
	v.Links.Self = definitionsPath + "/" + d.Current.Name
	v.Links.Versions = v.Links.Self + "/versions"
	return v
}

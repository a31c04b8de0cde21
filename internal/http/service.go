package http

import (
	"bytes"
	"cmp"
	"context"
	"maps"
	"runtime/debug"
	"slices"
	"strings"

	"github.com/skald-saga/skald"
	"github.com/skald-saga/skald/internal/http/api"
)

func (s *server) GetIndex(context.Context, api.GetIndexRequestObject) (api.GetIndexResponseObject, error) {
	return api.GetIndex200JSONResponse{Body: api.Index{Name: "Skald", Version: s.Version, Links: map[string]string{
		"orders": ordersPath, "sagas": sagasPath, "definitions": definitionsPath, "audit_log": auditPath, "participants": participantsPath,
		"batch_operations": batchesPath,
		"dead_letters":     deadLettersPath, "outbox": "/v1/outbox",
		"openapi": "/openapi.yaml", "asyncapi": "/asyncapi.yaml", "definition_schema": "/schemas/definition.json", "problems": "/problems",
		"alive": "/livez", "ready": "/readyz", "version": "/version",
	}}}, nil
}

func (s *server) GetLiveness(context.Context, api.GetLivenessRequestObject) (api.GetLivenessResponseObject, error) {
	return api.GetLiveness200JSONResponse{Body: api.Liveness{Status: "ok"}}, nil
}

func (s *server) GetReadiness(ctx context.Context, _ api.GetReadinessRequestObject) (api.GetReadinessResponseObject, error) {
	report := s.Health.Ready(ctx)
	if !report.Ready {
		return api.GetReadiness503JSONResponse{Body: api.Readiness{Status: "not ready", Checks: report.Checks}}, nil
	}
	return api.GetReadiness200JSONResponse{Body: api.Readiness{Status: "ready", Checks: report.Checks}}, nil
}

func (s *server) GetVersion(context.Context, api.GetVersionRequestObject) (api.GetVersionResponseObject, error) {
	v := api.Version{Version: s.Version}
	if build, ok := debug.ReadBuildInfo(); ok {
		v.Go = build.GoVersion
		for _, setting := range build.Settings {
			switch setting.Key {
			case "vcs.revision":
				v.Commit = optional(setting.Value)
			case "vcs.modified":
				modified := setting.Value == "true"
				v.Modified = &modified
			}
		}
	}
	return api.GetVersion200JSONResponse{Body: v}, nil
}

func (s *server) GetOpenapiYaml(context.Context, api.GetOpenapiYamlRequestObject) (api.GetOpenapiYamlResponseObject, error) {
	return api.GetOpenapiYaml200ApplicationyamlResponse{Body: bytes.NewReader(s.contract.yaml)}, nil
}

func (s *server) GetOpenapiJson(context.Context, api.GetOpenapiJsonRequestObject) (api.GetOpenapiJsonResponseObject, error) {
	return api.GetOpenapiJson200JSONResponse{Body: s.contract.json}, nil
}

func (s *server) GetAsyncapiYaml(context.Context, api.GetAsyncapiYamlRequestObject) (api.GetAsyncapiYamlResponseObject, error) {
	return api.GetAsyncapiYaml200ApplicationyamlResponse{Body: bytes.NewReader(skald.AsyncAPI())}, nil
}

func (s *server) GetDefinitionSchema(context.Context, api.GetDefinitionSchemaRequestObject) (api.GetDefinitionSchemaResponseObject, error) {
	return api.GetDefinitionSchema200ApplicationSchemaPlusJSONResponse{Body: skald.DefinitionSchema()}, nil
}

func (s *server) ListProblems(ctx context.Context, _ api.ListProblemsRequestObject) (api.ListProblemsResponseObject, error) {
	var list api.ProblemTypeList
	for _, code := range slices.SortedFunc(maps.Keys(problemTypes), func(a, b api.ProblemCode) int {
		return cmp.Or(cmp.Compare(problemTypes[a].status, problemTypes[b].status), cmp.Compare(a, b))
	}) {
		list.Items = append(list.Items, problemTypeView(code))
	}
	if wantsHTML(ctx) {
		page, err := problemPage(list.Items)
		return api.ListProblems200TexthtmlResponse{Body: page}, err
	}
	return api.ListProblems200JSONResponse{Body: list}, nil
}

func (s *server) GetProblem(ctx context.Context, req api.GetProblemRequestObject) (api.GetProblemResponseObject, error) {
	code := api.ProblemCode(req.Code)
	if _, known := problemTypes[code]; !known {
		return nil, notFound()
	}
	if wantsHTML(ctx) {
		page, err := problemPage([]api.ProblemType{problemTypeView(code)})
		return api.GetProblem200TexthtmlResponse{Body: page}, err
	}
	return api.GetProblem200JSONResponse{Body: problemTypeView(code)}, nil
}

func problemTypeView(code api.ProblemCode) api.ProblemType {
	t := problemTypes[code]
	return api.ProblemType{
		Code: code, Title: t.title, Status: int32(t.status), Retryable: t.retryable, Description: t.description, Link: problemLink(code),
	}
}

// wantsHTML tells browsers, which name HTML, from other clients.
func wantsHTML(ctx context.Context) bool { return strings.Contains(callOf(ctx).accept, "text/html") }

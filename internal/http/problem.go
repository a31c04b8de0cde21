package http

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	stdhttp "net/http"
	"strconv"
	"strings"

	"github.com/go-chi/chi/v5/middleware"

	"github.com/skald-saga/skald/internal/coordinator"
	"github.com/skald-saga/skald/internal/http/api"
)

// failure is an error whose text is for the client. It never holds a value
// that the client sent.
type failure struct {
	code    api.ProblemCode
	detail  string
	errors  []api.FieldError
	allowed []string

	retryAfter int // seconds, of what may be tried again; 0: one
}

func (f *failure) Error() string {
	parts := []string{string(f.code)}
	if f.detail != "" {
		parts = append(parts, f.detail)
	}
	for _, e := range f.errors {
		parts = append(parts, e.Pointer+" "+e.Detail)
	}
	return strings.Join(parts, ": ")
}

// at is a failure of one part of the request.
func at(code api.ProblemCode, pointer, detail string) *failure {
	return &failure{code: code, errors: []api.FieldError{{Pointer: pointer, Detail: detail}}}
}

func notFound() *failure { return &failure{code: api.ProblemCodeNotFound} }

// failureOf says what the client is told of an error. What it does not know is
// an internal error, whose text stays in the log.
func failureOf(err error) *failure {
	var known *failure
	var input *coordinator.InputError
	var illegal *coordinator.IllegalError
	var dead *coordinator.RedriveError
	switch {
	case errors.As(err, &known):
		return known
	case errors.As(err, &input):
		return inputFailure(input, "#")
	case errors.As(err, &illegal):
		allowed := illegal.Allowed
		if allowed == nil {
			allowed = []string{}
		}
		detail := "The saga is " + string(illegal.Status) + "."
		if len(illegal.Resolutions) > 0 {
			detail += " The step can be resolved as " + strings.Join(illegal.Resolutions, " or ") + "."
		}
		return &failure{code: api.ProblemCode(illegal.Code), detail: detail, allowed: allowed}
	case errors.Is(err, coordinator.ErrNotFound):
		return notFound()
	case errors.Is(err, coordinator.ErrUnknownDefinition):
		return &failure{code: api.ProblemCodeUnknownDefinition}
	case errors.Is(err, coordinator.ErrDeprecated):
		return &failure{code: api.ProblemCodeDefinitionDeprecated}
	case errors.Is(err, coordinator.ErrKeyReused):
		return at(api.ProblemCodeIdempotencyKeyReused, "header:Idempotency-Key", "was used with another body")
	case errors.As(err, &dead):
		return &failure{code: api.ProblemCodeStillDead, detail: dead.Reason, allowed: []string{}}
	case errors.Is(err, coordinator.ErrBatchEnded):
		return &failure{code: api.ProblemCodeBatchEnded, allowed: []string{}}
	case errors.Is(err, coordinator.ErrPrecondition):
		return at(api.ProblemCodePreconditionFailed, "header:If-Match", "is not the saga's version")
	case errors.Is(err, coordinator.ErrOverloaded):
		return &failure{code: api.ProblemCodeOverloaded}
	case errors.Is(err, coordinator.ErrOutboxFull):
		return &failure{code: api.ProblemCodeOverloaded, detail: "Messages do not leave, or too slowly.", retryAfter: 10}
	case errors.Is(err, coordinator.ErrStopped):
		return &failure{code: api.ProblemCodeStopping}
	case coordinator.Unavailable(err), errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		return &failure{code: api.ProblemCodeDatabaseUnavailable}
	}
	return &failure{code: api.ProblemCodeInternal}
}

// inputFailure points at the parts of a saga's input, which is at root.
func inputFailure(err *coordinator.InputError, root string) *failure {
	f := &failure{code: api.ProblemCodeInputInvalid}
	for _, p := range err.Problems {
		f.add(root+strings.TrimPrefix(pointer(p.Path), "#"), p.Detail)
	}
	return f
}

// undecodable is a body that fits openapi.yaml and still not our types, such as
// an integer written with an exponent.
func undecodable(err error) error {
	var kind *json.UnmarshalTypeError
	if errors.As(err, &kind) && kind.Field != "" {
		return at(api.ProblemCodeBadRequest, pointer(strings.Split(kind.Field, ".")), "is not written in a form that is understood")
	}
	return at(api.ProblemCodeBadRequest, "#", "is not written in a form that is understood")
}

// fail answers with the problem document of an error, and logs it if the
// server is to blame. It is the only place where errors become statuses.
func (s *server) fail(w stdhttp.ResponseWriter, r *stdhttp.Request, err error) {
	f := failureOf(err)
	kind, known := problemTypes[f.code]
	if !known {
		f = &failure{code: api.ProblemCodeInternal}
		kind = problemTypes[api.ProblemCodeInternal]
	}
	c := callOf(r.Context())
	gone := r.Context().Err() != nil
	if kind.status >= stdhttp.StatusInternalServerError && !gone {
		level := slog.LevelError // a person may be needed
		if kind.retryable {
			level = slog.LevelWarn
		}
		s.Log.Log(r.Context(), level, "request failed", "operation", s.contract.operation(r).id, "request_id", c.id, "code", f.code, "err", err)
	}
	if ww, ok := w.(middleware.WrapResponseWriter); ok && ww.Status() != 0 {
		return // the answer was on its way already
	}
	p := api.Problem{
		Type: problemLink(f.code), Title: kind.title, Status: int32(kind.status), Code: f.code,
		RequestId: c.id, Retryable: kind.retryable, Detail: optional(f.detail),
	}
	if len(f.errors) > 0 {
		p.Errors = &f.errors
	}
	if f.allowed != nil {
		p.Allowed = &f.allowed
	}
	body, err := json.Marshal(p)
	if err != nil { // cannot be: strings and numbers
		body = []byte(`{}`)
	}
	w.Header().Set("Content-Type", "application/problem+json")
	if kind.status == stdhttp.StatusServiceUnavailable {
		w.Header().Set("Retry-After", strconv.Itoa(max(f.retryAfter, 1)))
	}
	w.WriteHeader(kind.status)
	_, _ = w.Write(body) // the client has gone: nobody is there to tell
}

func problemLink(code api.ProblemCode) string { return "/problems/" + string(code) }

// optional is nil for what is empty and therefore left out.
func optional[T comparable](v T) *T {
	var zero T
	if v == zero {
		return nil
	}
	return &v
}

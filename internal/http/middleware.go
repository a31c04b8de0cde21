package http

import (
	"context"
	"fmt"
	stdhttp "net/http"
	"runtime/debug"
	"strings"

	"github.com/go-chi/chi/v5"
	"github.com/go-chi/chi/v5/middleware"
	"github.com/google/uuid"

	"github.com/skald-saga/skald/internal/http/api"
	"github.com/skald-saga/skald/internal/wire"
)

// call is what is known of a request besides its parameters.
type call struct {
	id          string   // names it in the log and in problems
	accept      string   // the Accept header
	fingerprint [32]byte // of the body, if it came with an Idempotency-Key
	trace       wire.Trace
	open        map[string]string // query parameters whose names are not fixed
}

type callKey struct{}

// callOf returns the call that identify made for the request.
func callOf(ctx context.Context) *call {
	if c, ok := ctx.Value(callKey{}).(*call); ok {
		return c
	}
	return &call{}
}

// identify names the request and sets the headers that every answer has.
func (s *server) identify(next stdhttp.Handler) stdhttp.Handler {
	return stdhttp.HandlerFunc(func(w stdhttp.ResponseWriter, r *stdhttp.Request) {
		c := &call{id: requestID(r), accept: r.Header.Get("Accept"), trace: trace(r)}
		h := w.Header()
		h.Set("X-Request-Id", c.id)
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Cache-Control", "no-store")
		h.Set("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'") // the pages of problems
		ww := middleware.NewWrapResponseWriter(w, r.ProtoMajor)
		next.ServeHTTP(ww, r.WithContext(context.WithValue(r.Context(), callKey{}, c)))
	})
}

// requestID is the one that the client gave, if it is fit for a log.
func requestID(r *stdhttp.Request) string {
	id := r.Header.Get("X-Request-Id")
	visible := !strings.ContainsFunc(id, func(c rune) bool { return c < '!' || c > '~' })
	if id != "" && len(id) <= 128 && visible {
		return id
	}
	return uuid.NewString()
}

// trace is what the request is part of. A tracestate may come in parts.
func trace(r *stdhttp.Request) wire.Trace {
	if parents := r.Header.Values("Traceparent"); len(parents) == 1 {
		return wire.ParseTrace(parents[0], strings.Join(r.Header.Values("Tracestate"), ","))
	}
	return wire.Trace{}
}

// refuseUntilStarted lets only those requests through that need no sagas:
// whether the process is alive, what it is, and what its problems mean.
func (s *server) refuseUntilStarted(next stdhttp.Handler) stdhttp.Handler {
	return stdhttp.HandlerFunc(func(w stdhttp.ResponseWriter, r *stdhttp.Request) {
		if s.Started != nil && !s.Started() && strings.HasPrefix(r.URL.Path, "/v1/") {
			s.fail(w, r, &failure{code: api.ProblemCodeDatabaseUnavailable, detail: "The server has not started yet. Nothing was done."})
			return
		}
		next.ServeHTTP(w, r)
	})
}

// recoverPanics turns a panic, always a mistake of ours, into an internal error.
func (s *server) recoverPanics(m *metrics) func(stdhttp.Handler) stdhttp.Handler {
	return func(next stdhttp.Handler) stdhttp.Handler {
		return stdhttp.HandlerFunc(func(w stdhttp.ResponseWriter, r *stdhttp.Request) {
			defer func() {
				v := recover()
				switch {
				case v == nil:
				case v == stdhttp.ErrAbortHandler: //nolint:errorlint // it is panicked with as it is
					panic(v)
				default:
					m.panics.Inc()
					s.fail(w, r, fmt.Errorf("panic: %v\n%s", v, debug.Stack()))
				}
			}()
			next.ServeHTTP(w, r)
		})
	}
}

// methodNotAllowed answers with the methods that the path has.
func (s *server) methodNotAllowed(w stdhttp.ResponseWriter, r *stdhttp.Request) {
	path := r.URL.RawPath
	if path == "" {
		path = r.URL.Path
	}
	for _, method := range []string{stdhttp.MethodGet, stdhttp.MethodPost, stdhttp.MethodPut, stdhttp.MethodPatch, stdhttp.MethodDelete} {
		if !s.router.Match(chi.NewRouteContext(), method, path) {
			continue
		}
		w.Header().Add("Allow", method)
		if method == stdhttp.MethodGet {
			w.Header().Add("Allow", stdhttp.MethodHead)
		}
	}
	s.fail(w, r, &failure{code: api.ProblemCodeMethodNotAllowed})
}

// headAsGet answers HEAD as GET; net/http leaves the body out.
func headAsGet(next stdhttp.Handler) stdhttp.Handler {
	return stdhttp.HandlerFunc(func(w stdhttp.ResponseWriter, r *stdhttp.Request) {
		if r.Method == stdhttp.MethodHead {
			get := *r
			get.Method = stdhttp.MethodGet
			r = &get
		}
		next.ServeHTTP(w, r)
	})
}

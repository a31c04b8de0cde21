// Package http serves the REST API of openapi.yaml.
//
// openapi.yaml is the source: the types and the interface that [server]
// implements are generated from it (package api), and every request is checked
// against it before a handler sees it. What cannot be said there - the JSON
// must have no duplicate members, money must fit its currency - is checked in
// json.go and order.go. Errors become problem documents in problem.go and
// nowhere else.
//
// The package keeps no state: everything is asked of the coordinator, so any
// number of servers answer alike.
package http

import (
	"errors"
	"log/slog"
	stdhttp "net/http"

	"github.com/go-chi/chi/v5"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/skald-saga/skald/internal/coordinator"
	"github.com/skald-saga/skald/internal/http/api"
	"github.com/skald-saga/skald/internal/telemetry"
)

// Config is what the API needs.
type Config struct {
	Sagas      *coordinator.Coordinator
	Log        *slog.Logger
	Health     *telemetry.Health
	Registerer prometheus.Registerer // of the request metrics; nil: none
	Admin      stdhttp.Handler       // serves /metrics and /debug/pprof/ here too; nil: they are not here
	Lag        LagFunc               // how far participants are behind; nil: nobody knows
	Version    string                // of the program
	Started    func() bool           // whether sagas can be worked with; nil: yes. Until then the database is unavailable
	Stopping   <-chan struct{}       // closed when the server begins to drain: clients that wait get their answer then
}

// server implements the operations of openapi.yaml.
type server struct {
	Config
	contract *contract
	router   *chi.Mux
}

var _ api.StrictServerInterface = (*server)(nil)

// New returns the API. It fails only if a part of cfg is missing or openapi.yaml
// is not usable.
func New(cfg Config) (stdhttp.Handler, error) {
	if cfg.Sagas == nil || cfg.Health == nil {
		return nil, errors.New("the REST API needs a coordinator and its health")
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	c, err := loadContract()
	if err != nil {
		return nil, err
	}
	s := &server{Config: cfg, contract: c, router: chi.NewRouter()}
	m := newMetrics(cfg.Registerer)
	s.router.Use(s.identify, m.observe(c), s.recoverPanics(m))
	s.router.NotFound(func(w stdhttp.ResponseWriter, r *stdhttp.Request) { s.fail(w, r, notFound()) })
	s.router.MethodNotAllowed(s.methodNotAllowed)
	if cfg.Admin != nil {
		s.router.Method(stdhttp.MethodGet, "/metrics", cfg.Admin)
		s.router.Handle("/debug/pprof/*", cfg.Admin)
	}
	// The checks belong to each operation, not to the router: so an unknown path
	// stays a 404 and a wrong method a 405.
	operations := s.router.With(s.refuseUntilStarted, s.readRequest, s.validate())
	strict := api.NewStrictHandlerWithOptions(s, nil, api.StrictHTTPServerOptions{
		RequestErrorHandlerFunc:  func(w stdhttp.ResponseWriter, r *stdhttp.Request, err error) { s.fail(w, r, undecodable(err)) },
		ResponseErrorHandlerFunc: s.fail,
	})
	api.HandlerWithOptions(strict, api.ChiServerOptions{BaseRouter: operations, ErrorHandlerFunc: s.badParameter})
	return headAsGet(s.router), nil
}

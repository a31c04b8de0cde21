package http

import (
	"bytes"
	"context"
	"encoding/json"
	stdhttp "net/http"
	"strings"

	"github.com/google/uuid"

	"github.com/skald-saga/skald/internal/coordinator"
	"github.com/skald-saga/skald/internal/http/api"
)

// resource is the answer that holds one saga, or one order. Its statuses and
// headers are the same for both.
type resource struct {
	status  int
	version int64
	body    any
	wait    wait

	location string // empty: the client knows it
	replayed bool
}

func (a resource) write(w stdhttp.ResponseWriter) error {
	var body bytes.Buffer
	if a.status != stdhttp.StatusNotModified {
		if err := json.NewEncoder(&body).Encode(a.body); err != nil {
			return err
		}
		w.Header().Set("Content-Type", "application/json")
	}
	h := w.Header()
	h.Set("ETag", etag(a.version))
	if a.location != "" {
		h.Set("Location", a.location)
	}
	if applied := a.wait.applied(); applied != nil {
		h.Set("Preference-Applied", *applied)
	}
	if a.replayed {
		h.Set("Idempotent-Replayed", "true")
	}
	if a.status == stdhttp.StatusAccepted {
		h.Set("Retry-After", "1")
	}
	w.WriteHeader(a.status)
	_, err := body.WriteTo(w)
	return err
}

func (a resource) VisitStartOrderResponse(w stdhttp.ResponseWriter) error  { return a.write(w) }
func (a resource) VisitGetOrderResponse(w stdhttp.ResponseWriter) error    { return a.write(w) }
func (a resource) VisitCancelOrderResponse(w stdhttp.ResponseWriter) error { return a.write(w) }
func (a resource) VisitStartSagaResponse(w stdhttp.ResponseWriter) error   { return a.write(w) }
func (a resource) VisitGetSagaResponse(w stdhttp.ResponseWriter) error     { return a.write(w) }

// start is what starting an order and starting a saga have in common. The
// answer lacks its body.
func (s *server) start(ctx context.Context, req coordinator.StartRequest, path string, key *api.IdempotencyKey, prefer *api.Prefer) (resource, coordinator.Saga, error) {
	w, err := parsePrefer(prefer)
	if err != nil {
		return resource{}, coordinator.Saga{}, err
	}
	if key != nil {
		req.Key = &coordinator.IdempotencyKey{
			Principal: anonymous, Route: stdhttp.MethodPost + " " + path, Key: bareKey(*key),
			Fingerprint: callOf(ctx).fingerprint,
		}
	}
	req.Trace = callOf(ctx).trace
	started, err := s.startLimited(ctx, req)
	if err != nil {
		return resource{}, coordinator.Saga{}, err
	}
	saga := started.Saga
	if w.asked && !saga.Ended() {
		if saga, err = s.await(ctx, saga, w, coordinator.Ended); err != nil {
			return resource{}, coordinator.Saga{}, err
		}
	}
	a := resource{status: stdhttp.StatusAccepted, version: saga.Version, wait: w, location: path + "/" + saga.ID.String(), replayed: started.Replayed}
	if saga.Ended() {
		a.status = stdhttp.StatusOK
	}
	return a, saga, nil
}

// bareKey takes the quotes off a key that is written as a structured field.
func bareKey(key string) string {
	if strings.HasPrefix(key, `"`) {
		return strings.Trim(key, `"`)
	}
	return key
}

func (s *server) startLimited(ctx context.Context, req coordinator.StartRequest) (coordinator.Started, error) {
	ctx, cancel := context.WithTimeout(ctx, callLimit)
	defer cancel()
	return s.Sagas.Start(ctx, req)
}

// get is what reading an order and reading a saga have in common. The answer
// lacks its body.
func (s *server) get(ctx context.Context, id uuid.UUID, read reader, known *api.IfNoneMatch, prefer *api.Prefer) (resource, coordinator.Saga, error) {
	none := func(err error) (resource, coordinator.Saga, error) { return resource{}, coordinator.Saga{}, err }
	w, err := parsePrefer(prefer)
	if err != nil {
		return none(err)
	}
	seen, err := parseTags("If-None-Match", known)
	if err != nil {
		return none(err)
	}
	saga, err := readLimited(ctx, id, read)
	if err != nil {
		return none(err)
	}
	if w.asked && !seen.outdated(saga.Version, saga.Status) {
		if saga, err = s.await(ctx, saga, w, seen.outdated); err != nil {
			return none(err)
		}
	}
	a := resource{status: stdhttp.StatusOK, version: saga.Version, wait: w}
	if seen.given && seen.unchanged(saga.Version) {
		a.status = stdhttp.StatusNotModified
	}
	return a, saga, nil
}

// reader finds the saga of a resource.
type reader func(context.Context, uuid.UUID) (coordinator.Saga, error)

func readLimited(ctx context.Context, id uuid.UUID, read reader) (coordinator.Saga, error) {
	ctx, cancel := context.WithTimeout(ctx, callLimit)
	defer cancel()
	return read(ctx, id)
}

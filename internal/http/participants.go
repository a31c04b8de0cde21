package http

import (
	"context"
	"time"

	"github.com/skald-saga/skald/internal/coordinator"
	"github.com/skald-saga/skald/internal/http/api"
)

const participantsPath = "/v1/participants"

// lagLimit is how long NATS may take to say how far participants are behind.
const lagLimit = 2 * time.Second

// LagFunc says how far participants are behind. Of those that nothing is known
// of it says nothing.
type LagFunc func(ctx context.Context, participants []string) (map[string]Lag, error)

// Lag is what waits for a participant.
type Lag struct {
	Pending, InFlight int64
	LastSeen          time.Time // zero: never
}

func (s *server) ListParticipants(ctx context.Context, _ api.ListParticipantsRequestObject) (api.ListParticipantsResponseObject, error) {
	ctx, cancel := context.WithTimeout(ctx, callLimit)
	defer cancel()
	names, err := s.Sagas.Participants(ctx)
	if err != nil {
		return nil, err
	}
	pauses, err := s.Sagas.Pauses(ctx)
	if err != nil {
		return nil, err
	}
	lags := s.lags(ctx, names)
	list := api.ParticipantList{Items: make([]api.Participant, len(names))}
	for i, name := range names {
		p := &list.Items[i]
		p.Name = name
		for _, pause := range pauses {
			if pause.Kind == coordinator.TargetParticipant && pause.Name == name {
				v := pauseView(name, &pause)
				p.Paused, p.PausedAt, p.Actor, p.Reason = v.Paused, v.PausedAt, v.Actor, v.Reason
			}
		}
		if lag, known := lags[name]; known {
			p.Pending, p.InFlight, p.LastSeen = &lag.Pending, &lag.InFlight, optional(lag.LastSeen)
		}
	}
	return api.ListParticipants200JSONResponse{Body: list}, nil
}

// lags asks how far participants are behind, and does without if nobody says.
func (s *server) lags(ctx context.Context, names []string) map[string]Lag {
	if s.Lag == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, lagLimit)
	defer cancel()
	lags, err := s.Lag(ctx, names)
	if err != nil {
		s.Log.WarnContext(ctx, "asking how far participants are behind failed", "err", err)
	}
	return lags
}

// pauseView is a pause as clients see it; nil is none.
func pauseView(name string, p *coordinator.Pausing) api.PauseState {
	v := api.PauseState{Name: name}
	if p != nil {
		since := p.Since.UTC()
		v.Paused, v.PausedAt, v.Actor, v.Reason = true, &since, &p.Actor, optional(p.Reason)
	}
	return v
}

func (s *server) PauseParticipant(ctx context.Context, req api.PauseParticipantRequestObject) (api.PauseParticipantResponseObject, error) {
	ctx, cancel := context.WithTimeout(ctx, callLimit)
	defer cancel()
	p, err := s.Sagas.PauseParticipant(ctx, req.Name, asked(reasonOf(req.Body)))
	if err != nil {
		return nil, err
	}
	return api.PauseParticipant200JSONResponse{Body: pauseView(req.Name, p)}, nil
}

func (s *server) ResumeParticipant(ctx context.Context, req api.ResumeParticipantRequestObject) (api.ResumeParticipantResponseObject, error) {
	ctx, cancel := context.WithTimeout(ctx, callLimit)
	defer cancel()
	if err := s.Sagas.ResumeParticipant(ctx, req.Name, asked(reasonOf(req.Body))); err != nil {
		return nil, err
	}
	return api.ResumeParticipant200JSONResponse{Body: pauseView(req.Name, nil)}, nil
}

func (s *server) PauseDefinition(ctx context.Context, req api.PauseDefinitionRequestObject) (api.PauseDefinitionResponseObject, error) {
	ctx, cancel := context.WithTimeout(ctx, callLimit)
	defer cancel()
	p, err := s.Sagas.PauseDefinition(ctx, req.Name, asked(reasonOf(req.Body)))
	if err != nil {
		return nil, err
	}
	return api.PauseDefinition200JSONResponse{Body: pauseView(req.Name, p)}, nil
}

func (s *server) ResumeDefinition(ctx context.Context, req api.ResumeDefinitionRequestObject) (api.ResumeDefinitionResponseObject, error) {
	ctx, cancel := context.WithTimeout(ctx, callLimit)
	defer cancel()
	if err := s.Sagas.ResumeDefinition(ctx, req.Name, asked(reasonOf(req.Body))); err != nil {
		return nil, err
	}
	return api.ResumeDefinition200JSONResponse{Body: pauseView(req.Name, nil)}, nil
}

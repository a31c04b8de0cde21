package coordinator

import (
	"context"
	"slices"
)

// simPauses are the rows of pause and saga_hold.
type simPauses struct {
	rows  []simPause
	holds []hold
}

// simPause is a pause that somebody has begun, and perhaps ended.
type simPause struct {
	kind, name string
	over       bool
	knownTo    int // so many servers have read that it is over
}

func (p *simPauses) row(kind, name string) *simPause {
	for i := range p.rows {
		if p.rows[i].kind == kind && p.rows[i].name == name {
			return &p.rows[i]
		}
	}
	return nil
}

// pauseSome begins or ends the pause of a participant or of the definition.
// Servers notice when they look.
func (w *world) pauseSome() {
	target := []simPause{{kind: TargetParticipant, name: "p"}, {kind: TargetParticipant, name: "q"}, {kind: TargetDefinition, name: "random"}}[w.IntN(3)]
	row := w.db.pauses.row(target.kind, target.name)
	switch {
	case row == nil:
		w.db.pauses.rows = append(w.db.pauses.rows, target)
	default:
		row.over, row.knownTo = !row.over, 0
	}
	w.logf("pauses: %+v", w.db.pauses.rows)
}

// look has a server read the pauses, as readPauses does.
func (s *simServer) look() {
	p := &pauses{definitions: map[string]bool{}}
	for i := range s.db.pauses.rows {
		switch row := &s.db.pauses.rows[i]; {
		case row.over:
			p.over = append(p.over, Pausing{Kind: row.kind, Name: row.name})
			row.knownTo |= 1 << s.number
		case row.kind == TargetParticipant:
			p.participants = append(p.participants, row.name)
		default:
			p.definitions[row.name] = true
		}
	}
	s.c.pauses.Store(p)
}

// release has a server send what was withheld because of pauses that are over,
// as Coordinator.release does.
func (w *world) release(s *simServer) {
	s.look()
	w.spawn(s, "release", func(*task) {
		for _, p := range s.c.pauses.Load().over {
			var ids uuids
			for _, h := range w.db.pauses.holds {
				if h.kind == p.Kind && h.name == p.Name {
					ids = append(ids, h.saga)
				}
			}
			if len(ids) > 0 {
				_, err := s.c.releaseSagas(context.Background(), p, ids)
				w.logf("server %d: release %d sagas of %s %s: %v", s.number, len(ids), p.Kind, p.Name, err)
			}
		}
	})
}

// forgetPauses deletes the pauses that are over, when nothing that they have
// withheld is left and nobody can withhold more.
func (w *world) forgetPauses() {
	all := 0
	for _, s := range w.servers {
		all |= 1 << s.number
	}
	if len(w.tasks) == 0 {
		w.db.pauses.rows = slices.DeleteFunc(w.db.pauses.rows, func(p simPause) bool {
			return p.over && p.knownTo == all && !slices.ContainsFunc(w.db.pauses.holds, func(h hold) bool { return h.kind == p.kind && h.name == p.name })
		})
	}
}

// writeBeside does what the statements beside a saga's do.
func (p *simPauses) writeBeside(what beside) {
	switch what := what.(type) {
	case hold:
		if !slices.Contains(p.holds, what) {
			p.holds = append(p.holds, what)
		}
	case released:
		p.holds = slices.DeleteFunc(p.holds, func(h hold) bool { return h == hold(what) })
	}
}

// checkHeld: what is withheld is listed with the pause that withholds it, and
// will be sent when that ends. (P2)
func (w *world) checkHeld(st *simSaga) {
	for i, step := range st.state.Steps {
		if !step.Held {
			continue
		}
		listed := slices.ContainsFunc(w.db.pauses.holds, func(h hold) bool {
			mine := h.saga == st.id && (h.kind == TargetDefinition || h.name == st.def.Steps[i].Participant)
			return mine && w.db.pauses.row(h.kind, h.name) != nil
		})
		if !listed {
			w.failf("P2", "step %s of saga %s is held, and no pause knows", st.def.Steps[i].Name, st.name())
		}
	}
}

package coordinator

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/skald-saga/skald/internal/saga"
	"github.com/skald-saga/skald/internal/simulation"
)

// operate has an operator ask for something, possible or not. One who does not
// meddle says only what is true.
func (w *world) operate(s *simServer) {
	if len(w.db.order) == 0 {
		return
	}
	st := w.db.order[w.IntN(len(w.db.order))]
	for _, other := range w.db.order {
		if other.status == saga.Stuck && w.IntN(2) == 0 {
			st = other
		}
	}
	switch what := w.IntN(12); {
	case w.meddling && st.status == saga.Stuck && what%2 == 0:
		w.resolve(s, st)
	case what < 2:
		w.request(s, st, "cancel", saga.Cancel{Reason: "r", Actor: "a"})
	case what < 4:
		w.request(s, st, "retry", saga.TryNow{Reason: "r", Actor: "a"})
	case what < 6:
		w.request(s, st, "pause", saga.Pause{Actor: "a"})
	case what < 9:
		w.request(s, st, "resume", saga.Resume{Actor: "a"})
	case what == 9:
		w.restart(s, st)
	case w.meddling && what == 10 && w.IntN(4) == 0:
		w.meddle(st)
		w.request(s, st, "abandon", saga.Abandon{Reason: "r", Actor: "a"})
	case w.meddling:
		w.resolve(s, st)
	default:
		w.resolveTruly(s, st)
	}
}

// resolve says anything of a step, of one that is stuck if there is one.
func (w *world) resolve(s *simServer, st *simSaga) {
	i, phase := w.IntN(len(st.def.Steps)), []saga.Phase{saga.Action, saga.Compensation}[w.IntN(2)]
	for j, step := range st.state.Steps {
		if step.Status == saga.StepStuck {
			i, phase = j, step.Phase
		}
	}
	w.meddle(st)
	outcome := []saga.Resolution{saga.ResolveSucceeded, saga.ResolveFailed, saga.ResolveSkipped}[w.IntN(3)]
	w.request(s, st, "resolve", saga.Resolve{Step: st.def.Steps[i].Name, Phase: phase, Outcome: outcome, Actor: "a"})
}

// meddle notes that what the books say of a saga may not be true from now on.
func (w *world) meddle(st *simSaga) { st.meddled = true }

func (w *world) request(s *simServer, st *simSaga, action string, ev saga.Event) {
	var op Operation
	if w.IntN(4) == 0 {
		op.IfVersion = st.version
	}
	w.spawn(s, fmt.Sprintf("%s saga %s", action, st.name()), func(*task) {
		err := s.c.request(context.Background(), st.id, op, request{action: action, event: ev})
		w.logf("server %d: %s saga %s: %v", s.number, action, st.name(), err)
		if errors.Is(err, ErrNotFound) {
			w.failf("P1", "saga %s is not found", st.name())
		}
	})
}

// resolveTruly tells of a stuck step what is known to be so.
func (w *world) resolveTruly(s *simServer, st *simSaga) {
	state := st.state
	for i, step := range state.Steps {
		if step.Status != saga.StepStuck {
			continue
		}
		name := st.def.Steps[i].Name
		known := w.participants.Known(simulation.Effect{Saga: st.id.String(), Step: name, Phase: step.Phase, Generation: step.Generation})
		there := w.participants.There(st.id.String(), name) > 0
		outcome := saga.ResolveSucceeded
		if step.Phase == saga.Action && !there {
			outcome = saga.ResolveFailed
		}
		if known && (step.Phase == saga.Compensation) != there {
			w.request(s, st, "resolve", saga.Resolve{Step: name, Phase: step.Phase, Outcome: outcome, Actor: "a"})
		}
	}
}

// restart takes up a saga again, as Coordinator.Restart does.
func (w *world) restart(s *simServer, st *simSaga) {
	if st.status != saga.Compensated && st.status != saga.Abandoned {
		return
	}
	w.spawn(s, "restart saga "+st.name(), func(*task) {
		ctx := context.Background()
		def, err := s.c.startable(ctx, "random", 0)
		if err != nil {
			w.failf("P8", "%v", err)
		}
		job, err := s.c.newStart(def, StartRequest{
			Definition: def.Name, Input: w.sources[def.id-1].input,
			Key: &IdempotencyKey{Route: restartRoute, Key: st.id.String()}, again: saga.Origin{Saga: st.id.String(), Actor: "a"},
		})
		if err != nil {
			w.failf("P8", "%v", err)
		}
		s.c.write(ctx, []*startJob{job})
		w.logf("server %d: restart saga %s: %v", s.number, st.name(), (<-job.done).err)
	})
}

// calm is what the world comes to: nothing goes wrong any more, everybody is
// well, and somebody helps where that is not enough. Every saga ends. (P2)
func (w *world) calm() {
	w.weather = weather{poisonous: w.poisonous}
	w.nats.down = false
	clear(w.nats.full)
	for i := range w.db.pauses.rows {
		w.db.pauses.rows[i].over = true
	}
	w.logf("calm")
	w.settle()
	for _, s := range w.servers {
		s.look()
	}
	for range 500 {
		if !w.lookAfter() {
			return
		}
		w.settle()
	}
}

// lookAfter does the next thing that is to be done; false if there is none.
func (w *world) lookAfter() bool {
	s := w.someServer()
	for _, x := range w.wishes {
		if !x.answered {
			w.startThese(s, []*wish{x})
			return true
		}
	}
	switch {
	case w.db.settled < len(w.db.outbox):
		w.carry(100)
	case len(w.db.parked) > 0:
		w.carryParked()
	case len(w.nats.commands) > 0:
		w.deliver(w.nats.commands[w.IntN(len(w.nats.commands))])
	case len(w.nats.replies) > 0:
		w.reply(s, 8)
	default:
		return w.help(s) || w.releaseAll(s) || w.wait(s)
	}
	return true
}

// releaseAll has a server send what pauses have withheld.
func (w *world) releaseAll(s *simServer) bool {
	if len(w.db.pauses.holds) == 0 {
		return false
	}
	w.release(s)
	return true
}

// wait lets time pass until a timer is due by everybody's clock.
func (w *world) wait(s *simServer) bool {
	due := w.nextTimer()
	if due.IsZero() {
		return false
	}
	if due = due.Add(3 * time.Second); due.After(w.now) {
		w.now = due
	}
	w.fire(s, 10)
	return true
}

// help does for a saga what only a person can do.
func (w *world) help(s *simServer) bool {
	for _, st := range w.db.order {
		state := st.state
		switch {
		case !st.open():
			continue
		case state.Paused():
			w.request(s, st, "resume", saga.Resume{Actor: "a"})
			return true
		case st.status != saga.Stuck:
			continue
		}
		w.helpStuck(s, st, state)
		return true
	}
	return false
}

// helpStuck tries again what is stuck; what was tried in vain is resolved.
func (w *world) helpStuck(s *simServer, st *simSaga, state saga.State) {
	st.helped++
	for i, step := range state.Steps {
		if step.Status != saga.StepStuck {
			continue
		}
		name := st.def.Steps[i].Name
		switch {
		case step.Attempt == 0 && st.helped < 10: // its payload could not be made
			w.request(s, st, "retry", saga.TryNow{Step: name, Payload: json.RawMessage(`{}`), Actor: "a"})
			return
		case st.helped < 10:
			w.request(s, st, "retry", saga.TryNow{Actor: "a"})
			return
		}
		can := saga.Resolutions(st.def.Definition, state, i)
		w.meddle(st)
		w.request(s, st, "resolve", saga.Resolve{Step: name, Phase: step.Phase, Outcome: can[w.IntN(len(can))], Actor: "a"})
		return
	}
}

// aftermath lets everything come once more that was ever sent. It changes
// nothing. (P5, P6)
func (w *world) aftermath() {
	versions := make([]int64, len(w.db.order))
	for i, st := range w.db.order {
		versions[i] = st.version
	}
	for range 8 {
		m := w.db.outbox[w.IntN(len(w.db.outbox))]
		if m.command {
			w.nats.replies = append(w.nats.replies, &delivery{reply: w.execute(m)})
		}
	}
	for len(w.nats.replies) > 0 {
		w.reply(w.someServer(), 10)
		w.settle()
	}
	for i, st := range w.db.order {
		if !st.meddled && st.version != versions[i] {
			w.failf("P6", "saga %s had ended, and was changed by a late reply", st.name())
		}
	}
}

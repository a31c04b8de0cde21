package coordinator

import (
	"bytes"
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"time"

	"github.com/skald-saga/skald/internal/saga"
	"github.com/skald-saga/skald/internal/wire"
)

func (w *world) failf(promise, format string, args ...any) {
	panic(violation{promise, fmt.Sprintf(format, args...)})
}

// checkFold: history is the state, at every commit. (P7)
func (w *world) checkFold(st *simSaga, state saga.State) {
	folded, err := saga.Fold(st.def.Definition, st.id.String(), st.input, st.history)
	if err != nil {
		w.failf("P7", "saga %s: %v", st.name(), err)
	}
	if !reflect.DeepEqual(folded, state) {
		w.failf("P7", "saga %s is stored as\n%s, and its history folds to\n%s", st.name(), text(state), text(folded))
	}
	st.state = folded
}

func text(s saga.State) string {
	b, err := json.Marshal(s)
	return fmt.Sprint(string(b), err)
}

// checkUnchanged: a transaction that has decided nothing of a saga leaves it as
// it is, and has decided that by what it is. (P6)
func (w *world) checkUnchanged(st *simSaga, r *row) {
	if r.broken != nil || r.version != st.version || !reflect.DeepEqual(r.state, st.state) {
		w.failf("P6", "saga %s is\n%s\nand that a reply changes nothing was decided by\n%s", st.name(), text(st.state), text(r.state))
	}
	for _, reply := range r.staleSeen {
		w.checkStale(st, reply)
	}
}

// checkStale: what is awaited is not called stale. (P6) The outcome of an
// action that was given up still is, until it is compensated.
func (w *world) checkStale(st *simSaga, reply staleReply) {
	effect, err := wire.ParseEffectID(reply.EffectID)
	if err != nil {
		w.failf("P6", "%v", err)
	}
	step, final := st.state.Steps[st.def.Index(effect.Step)], saga.Outcome(reply.Outcome)
	awaited := step.Phase == saga.Phase(effect.Phase) && step.Generation == effect.Generation && !step.IssuedAt.IsZero()
	switch {
	case !awaited || !st.open():
	case step.Status == saga.StepRunning && (final == saga.Succeeded || final == saga.Failed),
		step.Status == saga.StepUnknown && (final == saga.Succeeded || final == saga.Failed),
		step.Status == saga.StepCompensating && final == saga.Succeeded:
		w.failf("P6", "saga %s: %s %s is called stale, %q, and the step is %s", st.name(), reply.EffectID, reply.Outcome, reply.Reason, step.Status)
	}
}

// checkTimer: nothing in flight is forgotten. (P2) The timers that s has taken
// go with its commit. What waits for its command to be published is looked at
// later than it wants.
func (w *world) checkTimer(st *simSaga, s *simSession) {
	w.checkLock(st, s)
	w.checkHeld(st)
	due := wanted(st.state)
	switch {
	case !due.IsZero():
	case !st.open() || st.state.Paused() || (st.status == saga.Stuck && !st.state.Held()), waitsForLock(st.state):
		return
	case !st.state.Held():
		w.failf("P2", "saga %s is %s, and waits for nothing: %s", st.name(), st.status, text(st.state))
	default:
		due = st.wakeAt // in case that the end of the pause is missed
	}
	for _, t := range w.db.timers {
		if t.saga == st.id && t.takenBy != s && !t.due.After(st.wakeAt) && (t.withheld || !t.due.After(due)) {
			return
		}
	}
	w.failf("P2", "saga %s is %s, due at %s, and has no timer", st.name(), st.status, due)
}

func waitsForLock(s saga.State) bool {
	return s.StartAt.IsZero() && s.Lock != nil && s.Lock.State == saga.LockWaiting
}

// wanted is when something is due, by the state alone; zero: never.
func wanted(s saga.State) time.Time {
	switch {
	case s.Status.Ended() || s.Paused():
		return time.Time{}
	case !s.StartAt.IsZero():
		return s.StartAt
	}
	earliest := s.DeadlineAt
	for _, step := range s.Steps {
		if !step.DueAt.IsZero() && (earliest.IsZero() || step.DueAt.Before(earliest)) {
			earliest = step.DueAt
		}
	}
	return earliest
}

// statement is what a participant has said; attempt 0: without saying of which.
type statement struct {
	saga, step string
	phase      saga.Phase
	outcome    saga.Outcome
	attempt    int
}

// checkEntry: history says of a participant only what the participant has said,
// of that attempt (P6), and gives up for want of a reply only what was
// published, so that it could have been replied to (DESIGN 2.1: budgets do not
// burn unpublished).
func (w *world) checkEntry(st *simSaga, e saga.Entry) {
	if e.Step == 0 || e.Attempt == 0 || st.meddled {
		return
	}
	step, gaveUp := st.def.Steps[e.Step-1], e.Type == saga.RetryScheduled || e.Type == saga.StepGivenUp || e.Type == saga.StepNeedsHelp
	var outcome saga.Outcome
	switch {
	case gaveUp && e.Error.Code == "timeout":
		w.checkPublished(st, step.Name, e)
		return
	case gaveUp && e.Error.Code == "retry":
		outcome = saga.Retry
	case e.Type == saga.DeadlineExtended && e.Reason == string(saga.InProgress):
		outcome = saga.InProgress
	case e.Type == saga.StepFailure && e.Error.Code == "failed":
		outcome = saga.Failed
	case (e.Type == saga.StepSuccess && step.Kind != saga.Notification) || e.Type == saga.StepUndone:
		outcome = saga.Succeeded
	default:
		return
	}
	said := statement{st.id.String(), step.Name, e.Phase, outcome, e.Attempt}
	anonymous := said
	anonymous.attempt = 0
	if !w.said[said] && !w.said[anonymous] {
		w.failf("P6", "saga %s was told that attempt %d of the %s of step %s has %s", st.name(), e.Attempt, e.Phase, step.Name, outcome)
	}
}

func (w *world) checkPublished(st *simSaga, step string, e saga.Entry) {
	for _, m := range w.db.outbox {
		if m.saga == st.id && m.command && m.cmd.EffectID.Step == step && m.cmd.EffectID.Phase == wire.Phase(e.Phase) && m.cmd.Attempt == e.Attempt {
			if m.published == 0 {
				w.failf("P2", "attempt %d of the %s of step %s of saga %s was given up before it was published", e.Attempt, e.Phase, step, st.name())
			}
			return
		}
	}
}

// checkCommand: one effect id is one effect, whichever attempt carries it, and
// is told truly of what it undoes. (P5)
func (w *world) checkCommand(st *simSaga, m *simMessage) {
	c := m.cmd
	if c.Saga != st.id.String() {
		w.failf("P5", "saga %s wrote a command of saga %s", st.name(), c.Saga)
	}
	first := true
	for _, o := range w.db.outbox {
		if !o.command || o.saga != m.saga || o.cmd.EffectID != c.EffectID {
			continue
		}
		first = false
		same := o.Subject == m.Subject && bytes.Equal(o.Payload, m.Payload) && o.cmd.EffectTime.Equal(c.EffectTime) && o.cmd.ActionOutcome == c.ActionOutcome
		if !same || o.cmd.Attempt >= c.Attempt {
			w.failf("P5", "two commands of one effect:\n%s %s\n%s %s", o.Headers, o.Payload, m.Headers, m.Payload)
		}
	}
	if first && !c.EffectTime.Equal(st.updated) {
		w.failf("P5", "%s is sent at %s as of %s", c.EffectID, st.updated, c.EffectTime)
	}
	if c.EffectID.Phase == wire.Compensation && (c.ActionOutcome == wire.Succeeded) != succeeded(st, st.def.Index(c.EffectID.Step)+1) {
		w.failf("P5", "%s is told that its action has %s", c.EffectID, c.ActionOutcome)
	}
}

// succeeded reports what history says of a step's action.
func succeeded(st *simSaga, step int) bool {
	return slices.ContainsFunc(st.history, func(e saga.Entry) bool { return e.Step == step && e.Type == saga.StepSuccess })
}

// checkOrder: what is undone is not undone before what came after it. (P3)
func (w *world) checkOrder(st *simSaga, i int) {
	if st.meddled || st.def.OnStuck == saga.StuckContinues {
		return
	}
	for j, step := range st.def.Steps {
		if follows(st.def.Definition, j, i) && step.Compensation != "" && step.Action != "" && w.participants.There(st.id.String(), step.Name) > 0 {
			w.failf("P3", "step %s of saga %s was undone before step %s", st.def.Steps[i].Name, st.name(), step.Name)
		}
	}
}

// follows reports whether step j depends on step i, over any number of others.
func follows(def *saga.Definition, j, i int) bool {
	return slices.ContainsFunc(def.Steps[j].After, func(p int) bool { return p == i || follows(def, p, i) })
}

// checkEnd is asked when nothing can happen any more.
func (w *world) checkEnd() {
	for _, st := range w.db.order {
		if st.open() {
			w.failf("P2", "saga %s never ends: %s", st.name(), text(st.state))
		}
		w.checkEffects(st)
		issued := 0
		for _, e := range st.history {
			if e.Type == saga.CommandIssued {
				issued++
			}
		}
		if issued != st.commands {
			w.failf("P1", "saga %s has issued %d commands, and written %d", st.name(), issued, st.commands)
		}
	}
	for _, m := range w.db.outbox {
		if m.published == 0 {
			w.failf("P9", "%s was never published", m.Subject)
		}
	}
	w.checkKeys()
}

// checkEffects compares what is there with how the saga ended. (P3) Of what an
// operator said is taken as true, nothing can be said.
func (w *world) checkEffects(st *simSaga) {
	if st.meddled {
		return
	}
	for i, step := range st.def.Steps {
		there := w.participants.There(st.id.String(), step.Name)
		if step.Kind == saga.Notification || step.Action == "" {
			continue
		}
		skipped := st.state.Steps[i].Status == saga.StepSkipped
		switch {
		case st.status == saga.Completed && !skipped && there != 1,
			st.status == saga.Completed && skipped && there != 0,
			st.status == saga.Compensated && there != 0 && (step.Compensation != "" || step.Kind != saga.Compensatable),
			st.status == saga.Abandoned:
			w.failf("P3", "saga %s is %s, and the effect of step %s, %s, is there %d times", st.name(), st.status, step.Name, st.state.Steps[i].Status, there)
		}
	}
}

// checkKeys: one key, one saga, of one request. (P8)
func (w *world) checkKeys() {
	sagas := map[string]*wish{}
	for _, x := range w.wishes {
		switch first := sagas[x.key]; {
		case !x.answered:
			w.failf("P2", "start %s was never answered", x.key)
		case x.refused:
		case w.db.sagas[x.saga] == nil:
			w.failf("P1", "start %s was answered with a saga that is not there", x.key)
		case first != nil && (first.saga != x.saga || first.fingerprint != x.fingerprint):
			w.failf("P8", "key %s has made two sagas, or one of two requests", x.key)
		default:
			sagas[x.key] = x
		}
	}
	restarts := map[*simSaga]bool{}
	for _, st := range w.db.order {
		if st.restartOf == nil {
			continue
		}
		if restarts[st.restartOf] {
			w.failf("P8", "saga %s was restarted twice", st.restartOf.name())
		}
		restarts[st.restartOf] = true
	}
	if made := len(w.db.order) - len(restarts); made != len(sagas) {
		w.failf("P8", "%d keys have made %d sagas", len(sagas), made)
	}
}

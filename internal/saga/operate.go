package saga

import (
	"fmt"
	"slices"
	"strings"
)

// Allowed lists the operator's requests that [Advance] would take now, by the
// names that the API has for them: those that would change something. A saga
// that was undone or abandoned can be started again, which is another saga.
func Allowed(def *Definition, s State) []string {
	switch {
	case s.Status == Completed:
		return nil
	case s.Status.Ended():
		return []string{"restart"} // as another saga, see [Opening]
	}
	actions := make([]string, 0, 5)
	if s.Cause == nil && !pivotPassed(def, s) && !pivotStuck(def, s) && !(pivotInFlight(def, s) && s.CancelRequested) {
		actions = append(actions, "cancel")
	}
	retry, resolve := false, false
	for i := range s.Steps {
		retry = retry || canTry(def, s, i)
		resolve = resolve || len(Resolutions(def, s, i)) > 0
	}
	if retry {
		actions = append(actions, "retry")
	}
	if resolve {
		actions = append(actions, "resolve")
	}
	if s.Paused() {
		return append(actions, "resume", "abandon")
	}
	return append(actions, "pause", "abandon")
}

// Resolutions lists what an operator may say of step i now; nothing if it is
// not stuck. A compensation cannot fail for good, nor can what comes after the
// pivot: they are tried again, or skipped.
func Resolutions(def *Definition, s State, i int) []Resolution {
	st := s.Steps[i]
	switch {
	case s.Status.Ended() || st.Status != StepStuck:
		return nil
	case st.Phase == Action && s.Cause != nil: // a pivot that was thought to have failed: its effect is there
		return []Resolution{ResolveFailed, ResolveSkipped}
	case st.Phase == Action && def.Steps[i].Kind == Pivot && !begunBehind(def, s):
		return []Resolution{ResolveSucceeded, ResolveFailed, ResolveSkipped}
	}
	return []Resolution{ResolveSucceeded, ResolveSkipped}
}

// canTry reports whether step i has an operation that could be tried at once:
// it waits for its next attempt, or is stuck. A pivot whose outcome is disputed
// is not tried again: what it decided may have been acted on.
func canTry(def *Definition, s State, i int) bool {
	st := s.Steps[i]
	switch {
	case s.Paused(), st.Held:
		return false
	case st.Waiting:
		return true
	}
	return canUnstick(def, s, i)
}

// canUnstick reports whether step i is stuck in an operation that could be
// tried again.
func canUnstick(def *Definition, s State, i int) bool {
	st := s.Steps[i]
	if st.Status != StepStuck || (st.disputed() && def.Steps[i].Kind == Pivot) {
		return false
	}
	// What was never sent still waits for the pivot, should that have become doubtful.
	return st.Attempt > 0 || def.pivot < 0 || s.Steps[def.pivot].Status != StepStuck
}

// cancel undoes the saga if the pivot allows it. Asking again is not an error.
func (m *machine) cancel(c Cancel) (ignored, illegal string) {
	switch {
	case m.state.Status.Ended():
		return "", IllegalEnded
	case pivotPassed(m.def, m.state):
		return "", IllegalPastPivot
	case m.state.Cause != nil:
		return "the saga is already being undone", ""
	case pivotStuck(m.def, m.state): // that it did not happen is said by resolving it
		return "", IllegalPivotStuck
	case pivotInFlight(m.def, m.state):
		if m.state.CancelRequested {
			return "cancellation has been requested already", ""
		}
		m.record(Entry{Type: CancelAsked, Reason: c.Reason, Actor: c.Actor})
		return "", ""
	}
	m.record(Entry{Type: CancelAsked, Reason: c.Reason, Actor: c.Actor})
	m.turnBack(Failure{Code: "cancelled", Message: c.Reason})
	return "", ""
}

// tryNow issues the next attempt of what waits for one or is stuck.
func (m *machine) tryNow(t TryNow) (illegal string) {
	var steps []int
	for i, step := range m.def.Steps {
		if !m.state.Status.Ended() && (t.Step == "" || t.Step == step.Name) && canTry(m.def, m.state, i) {
			steps = append(steps, i)
		}
	}
	asked := Entry{Type: RetryAsked, Reason: t.Reason, Actor: t.Actor}
	switch {
	case m.state.Status.Ended():
		return IllegalEnded
	case m.state.Paused():
		return IllegalPaused
	case len(steps) == 0:
		return IllegalNothingToRetry
	case t.Payload != nil && (t.Step == "" || !m.state.Steps[steps[0]].IssuedAt.IsZero()):
		return IllegalPayload // one effect, one payload: the participant may have the other one
	case t.Step != "":
		asked.Step, asked.Phase, asked.Payload = steps[0]+1, m.state.Steps[steps[0]].Phase, canonical(t.Payload)
	}
	m.record(asked)
	for _, i := range steps {
		if canTry(m.def, m.state, i) { // an expression that failed may have turned the saga back
			st := m.state.Steps[i]
			m.issue(i, st.Phase, max(st.Generation, 1), st.Attempt+1)
		}
	}
	return ""
}

// resolve takes an operator's word for how a stuck operation has ended. The
// same word again is not an error.
func (m *machine) resolve(r Resolve) (ignored, illegal string) {
	i := m.def.Index(r.Step)
	if i < 0 {
		return "", IllegalNotStuck
	}
	st := m.state.Steps[i]
	switch {
	case st.resolvedAs(r):
		return "it has been resolved so already", ""
	case m.state.Status.Ended():
		return "", IllegalEnded
	case st.Status != StepStuck || st.Phase != r.Phase:
		return "", IllegalNotStuck
	case !slices.Contains(Resolutions(m.def, m.state, i), r.Outcome):
		return "", IllegalOutcome
	}
	step := i + 1
	m.record(Entry{Type: StepResolved, Step: step, Phase: st.Phase, Reason: r.Reason, Actor: r.Actor})
	switch {
	case r.Outcome == ResolveSkipped:
		m.record(Entry{Type: StepSkip, Step: step, Phase: st.Phase})
	case st.Phase == Compensation:
		m.record(Entry{Type: StepUndone, Step: step, Phase: Compensation})
	case r.Outcome == ResolveSucceeded:
		m.actionSucceeded(i, 0, r.Result)
	default:
		failure := Failure{Code: "resolved-failed", Message: r.Reason, Step: r.Step}
		m.record(Entry{Type: StepFailure, Step: step, Phase: Action, Error: &failure})
		if m.state.Cause == nil {
			m.turnBack(failure)
		}
	}
	return "", ""
}

// resolvedAs reports whether an operator has said that already.
func (st *StepState) resolvedAs(r Resolve) bool {
	if st.Notes == nil || !st.Notes.Resolved || st.Phase != r.Phase {
		return false
	}
	switch r.Outcome {
	case ResolveSucceeded:
		return st.Status == StepSucceeded || st.Status == StepCompensated
	case ResolveFailed:
		return st.Status == StepFailed
	case ResolveSkipped:
		return st.Status == StepSkipped
	}
	return false
}

// contradicts reports whether a reply denies what an operator said of the very
// effect that it answers. To skip a step says nothing of its effect, so nothing
// contradicts that; neither does a compensation, which may not fail for good.
func contradicts(st StepState, r Reply) bool {
	if st.Notes == nil || !st.Notes.Resolved || st.Notes.Disputed || r.Phase != Action || st.Phase != Action || r.Generation != st.Generation {
		return false
	}
	return st.Status == StepSucceeded && r.Outcome == Failed || st.Status == StepFailed && r.Outcome == Succeeded
}

// dispute makes a saga stuck, even one that has ended: what an operator said
// of a step and what its participant says cannot both be true.
func (m *machine) dispute(i int, r Reply) {
	disputed := Entry{Type: StepDisputed, Step: i + 1, Phase: Action, Attempt: r.Attempt, Error: &Failure{
		Code: "contradicted", Step: r.Step,
		Message: fmt.Sprintf("an operator resolved it as %s, its participant says %s", m.state.Steps[i].Status, r.Outcome),
	}}
	if r.Outcome == Failed {
		disputed.Generation = r.Generation + 1 // to try it again takes another effect
	}
	m.record(disputed)
	if m.state.Status.Ended() {
		m.record(Entry{Type: BecameStuck})
	}
}

// disputed reports whether the step waits for an operator who decides between
// two statements.
func (st *StepState) disputed() bool {
	return st.Status == StepStuck && st.Notes != nil && st.Notes.Disputed
}

// spent is how many attempts were made before an operator gave new ones.
func (st *StepState) spent() int {
	if st.Notes == nil {
		return 0
	}
	return st.Notes.Spent
}

// abandon ends the saga as it stands. What is in flight is given up, as if its
// attempts were used up: no command follows, and replies change nothing.
func (m *machine) abandon(a Abandon) (ignored, illegal string) {
	switch {
	case m.state.Status == Abandoned:
		return "the saga is abandoned already", ""
	case m.state.Status.Ended():
		return "", IllegalEnded
	}
	for i, st := range m.state.Steps {
		step := m.def.Steps[i]
		givenUp := Entry{Type: StepNeedsHelp, Step: i + 1, Phase: st.Phase, Attempt: st.Attempt,
			Error: &Failure{Code: "abandoned", Message: a.Reason, Step: step.Name}}
		switch {
		case st.Status == StepRunning && step.Kind == Compensatable:
			givenUp.Type = StepGivenUp
		case st.Status != StepRunning && st.Status != StepCompensating:
			continue
		}
		m.record(givenUp)
	}
	m.record(Entry{Type: EndedAbandoned, Reason: a.Reason, Actor: a.Actor})
	return "", ""
}

// endUndone ends the way back. What an operator let be is not undone: such a
// saga is abandoned, never compensated.
func (m *machine) endUndone() {
	var left []string
	for i, st := range m.state.Steps {
		if st.Status == StepSkipped && st.Phase != "" { // not by its condition
			left = append(left, m.def.Steps[i].Name)
		}
	}
	if left == nil {
		m.record(Entry{Type: EndedCompensated})
		return
	}
	m.record(Entry{Type: EndedAbandoned, Reason: "not undone: " + strings.Join(left, ", ")})
}

// pause stops the saga from issuing commands. Asking again is not an error.
func (m *machine) pause(p Pause) (ignored, illegal string) {
	switch {
	case m.state.Status.Ended():
		return "", IllegalEnded
	case m.state.Paused():
		return "the saga is paused already", ""
	}
	m.record(Entry{Type: Paused, Reason: p.Reason, Actor: p.Actor})
	return "", ""
}

// resume lets it go on. A deadline that has suspended the saga is spent.
func (m *machine) resume(r Resume) (ignored, illegal string) {
	switch {
	case m.state.Status.Ended():
		return "", IllegalEnded
	case !m.state.Paused():
		return "the saga is not paused", ""
	}
	m.record(Entry{Type: Resumed, Reason: r.Reason, Actor: r.Actor})
	return "", ""
}

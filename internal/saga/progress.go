package saga

import (
	"encoding/json"
	"slices"
)

// progress does what the state now calls for, until it calls for nothing: the
// next steps, the next compensations, or the end.
func (m *machine) progress() {
	if m.state.Status.Ended() {
		return
	}
	m.release()
	var done bool
	if m.state.Cause == nil && m.state.WaitsFor() == "" {
		done = m.forward()
	}
	if m.state.Cause != nil { // forward may have found a reason to turn back
		done = m.backward()
	}
	stuck := false
	for i := range m.state.Steps {
		stuck = stuck || m.state.Steps[i].Status == StepStuck
	}
	if was := m.state.Status == Stuck; was != stuck {
		if stuck {
			m.record(Entry{Type: BecameStuck})
		} else {
			m.record(Entry{Type: NoLongerStuck})
		}
	}
	switch {
	case !done:
	case m.state.Cause == nil:
		m.record(Entry{Type: EndedCompleted})
	default:
		m.endUndone()
	}
}

// holds reports whether the participant of step i gets no commands now.
func (m *machine) holds(i int) bool { return slices.Contains(m.held, m.def.Steps[i].Participant) }

// release goes on with what was begun and whose participant is not held any
// more: the next attempt is issued; what is in flight is waited for afresh.
// What was not begun is the business of forward and backward, now or when there
// is room for it: no pause has to do with it any more.
func (m *machine) release() {
	for i := range m.state.Steps {
		st := m.state.Steps[i]
		switch {
		case !st.Held || m.holds(i) || m.state.Paused():
		case st.Waiting, st.Status == StepStuck && canUnstick(m.def, m.state, i):
			m.issue(i, st.Phase, max(st.Generation, 1), st.Attempt+1)
		case st.Status == StepRunning, st.Status == StepCompensating:
			m.record(Entry{Type: DeadlineExtended, Step: i + 1, Phase: st.Phase, Attempt: st.Attempt,
				DueAt: m.now.Add(m.def.Steps[i].Timeout), Reason: "participant resumed"})
		default:
			m.record(Entry{Type: StepRelease, Step: i + 1})
		}
	}
}

// forward issues every step whose predecessors are through. Steps stand in
// dependency order, so one pass sees also what a skipped step lets begin. It
// reports whether all steps are through.
func (m *machine) forward() (done bool) {
	room := m.room(StepRunning)
	for i, step := range m.def.Steps {
		if m.state.Paused() {
			break
		}
		// What comes after a step that has become doubtful again waits too, however far behind.
		if m.state.Steps[i].Status != StepPending || !m.allThrough(step.After) || !m.allThrough(step.ancestors) {
			continue
		}
		awaited := step.Action != "" && step.Kind != Notification
		if awaited && room == 0 {
			continue
		}
		m.begin(i)
		if m.state.Cause != nil {
			return false
		}
		if awaited && m.state.Steps[i].Status == StepRunning {
			room--
		}
	}
	for i := range m.state.Steps {
		if !m.through(i) {
			return false
		}
	}
	return true
}

// room is how many more steps may be in flight.
func (m *machine) room(status StepStatus) int {
	if m.def.MaxParallel == 0 {
		return len(m.state.Steps)
	}
	room := m.def.MaxParallel
	for i := range m.state.Steps {
		if m.state.Steps[i].Status == status {
			room--
		}
	}
	return max(room, 0) // an operator's retry does not ask for room
}

// begin takes the first action of step i, unless its condition says otherwise.
func (m *machine) begin(i int) {
	step := m.def.Steps[i]
	run, err := m.expressions().condition(i)
	switch {
	case err != nil:
		m.cannotIssue(i, Action, err)
	case !run:
		m.record(Entry{Type: StepSkip, Step: i + 1})
	case step.Action == "":
		m.record(Entry{Type: StepSuccess, Step: i + 1, Phase: Action})
	default:
		m.issue(i, Action, 1, 1)
	}
	if step.Kind == Notification && m.state.Steps[i].Status == StepRunning { // written is done
		m.record(Entry{Type: StepSuccess, Step: i + 1, Phase: Action, Attempt: 1})
	}
}

// through reports whether the way forward leads past this step.
func through(st StepState) bool { return st.Status == StepSucceeded || st.Status == StepSkipped }

// through is the same of step i; a notification stops nobody, not even one
// that could not be made.
func (m *machine) through(i int) bool {
	st := &m.state.Steps[i]
	return through(*st) || (st.Status == StepFailed && m.def.Steps[i].Kind == Notification)
}

func (m *machine) allThrough(steps []int) bool {
	for _, i := range steps {
		if !m.through(i) {
			return false
		}
	}
	return true
}

// backward compensates everything that may have happened, in reverse
// dependency order, independent steps together, once nothing is in flight.
// It reports whether nothing is left to undo.
func (m *machine) backward() (done bool) {
	for i := range m.state.Steps {
		if m.state.Steps[i].Status == StepRunning {
			return false
		}
	}
	done = true
	room := m.room(StepCompensating)
	blocked := make([]bool, len(m.def.Steps)) // by a later step that is not undone yet
	for i := len(m.def.Steps) - 1; i >= 0; i-- {
		step, st := m.def.Steps[i], m.state.Steps[i]
		left := st.Status == StepCompensating || st.Status == StepStuck ||
			(step.Compensation != "" && (st.Status == StepSucceeded || st.Status == StepUnknown))
		if left {
			done = false
			if room > 0 && !blocked[i] && !m.state.Paused() && (st.Status == StepSucceeded || st.Status == StepUnknown) {
				m.issue(i, Compensation, 1, 1)
				if st = m.state.Steps[i]; st.Status == StepCompensating { // it may be stuck at once
					room--
				}
			}
		}
		passed := !left || (st.Status == StepStuck && st.Phase == Compensation && m.def.OnStuck == StuckContinues)
		for _, p := range step.After {
			blocked[p] = blocked[p] || !passed || blocked[i]
		}
	}
	return done
}

// issue writes a command, unless its participant is held. If its payload cannot be made, the step has failed
// without effect; where failing is not allowed, it is stuck.
func (m *machine) issue(i int, phase Phase, generation, attempt int) {
	if m.holds(i) {
		if !m.state.Steps[i].Held {
			m.record(Entry{Type: StepHold, Step: i + 1, Phase: phase, Generation: generation, Attempt: attempt})
		}
		return
	}
	step := m.def.Steps[i]
	payload, err := m.payload(i, phase)
	if err != nil {
		m.cannotIssue(i, phase, err)
		return
	}
	due := m.now.Add(step.Timeout)
	m.record(Entry{Type: CommandIssued, Step: i + 1, Phase: phase, Generation: generation, Attempt: attempt, DueAt: due})
	st := m.state.Steps[i]
	c := Command{
		Step: step.Name, Participant: step.Participant, Operation: step.Action, Phase: phase,
		Generation: generation, Attempt: attempt, EffectTime: st.IssuedAt, Payload: payload,
	}
	switch {
	case phase == Compensation:
		c.Operation, c.ActionOutcome, c.ActionGen = step.Compensation, Succeeded, max(st.ActionGen, 1)
		if st.Unknown {
			c.ActionOutcome = OutcomeUnknown
		}
	case step.Kind == Compensatable:
		// Not the attempt's own timeout: an answer that comes later still counts,
		// and a command that was long on its way must not have been in vain.
		c.NotAfter = m.state.DeadlineAt
	}
	m.commands = append(m.commands, c)
}

// payload is what the step's expression makes, or what an operator gave in its
// place. What is given stays: every attempt of an effect carries the same.
func (m *machine) payload(i int, phase Phase) (json.RawMessage, error) {
	st := &m.state.Steps[i]
	if st.Notes != nil && st.Notes.Payload != nil && st.Phase == phase {
		return st.Notes.Payload, nil
	}
	return m.expressions().payload(i, phase)
}

func (m *machine) cannotIssue(i int, phase Phase, err error) {
	step := m.def.Steps[i]
	failure := Failure{Code: "expression", Message: err.Error(), Step: step.Name}
	if step.Kind == Notification {
		m.record(Entry{Type: StepFailure, Step: i + 1, Phase: phase, Error: &failure})
		return
	}
	if phase == Compensation || step.Kind == Retriable {
		m.record(Entry{Type: StepNeedsHelp, Step: i + 1, Phase: phase, Error: &failure})
		return
	}
	m.record(Entry{Type: StepFailure, Step: i + 1, Phase: phase, Error: &failure})
	m.turnBack(failure)
}

// expressions gives the steps' expressions sight of the input and the results.
func (m *machine) expressions() *scope {
	if m.scope == nil {
		m.scope = &scope{def: m.def, input: m.state.Input}
	}
	m.scope.steps = m.state.Steps
	return m.scope
}

package saga

import (
	"encoding/json"
	"fmt"
	"time"
)

// reply applies a participant's answer; the result says why it was ignored.
// Succeeded and Failed match by effect id, whichever attempt they answer: an
// effect happens once. Retry and InProgress speak of one attempt only.
func (m *machine) reply(r Reply) (ignored string) {
	i := m.def.Index(r.Step)
	if i < 0 {
		return fmt.Sprintf("the definition has no step %q", r.Step)
	}
	st := m.state.Steps[i]
	switch {
	case contradicts(st, r):
		m.dispute(i, r)
		return ""
	case m.state.Status.Ended():
		return "the saga is " + string(m.state.Status)
	}
	awaited, accepts := awaits(st, r.Phase)
	switch {
	case !accepts:
		return fmt.Sprintf("the step is %s", st.Status)
	case r.Generation != st.Generation:
		return fmt.Sprintf("generation %d is awaited", st.Generation)
	}
	switch r.Outcome {
	case Succeeded:
		m.succeed(i, r)
		return ""
	case Failed:
		if r.Phase == Action {
			return m.fail(i, r)
		}
		// A compensation may not fail for good: this is one more transient error.
	case Retry, InProgress:
	default:
		return fmt.Sprintf("unknown outcome %q", r.Outcome)
	}
	switch {
	case !awaited:
		return fmt.Sprintf("the step is %s", st.Status)
	case r.Attempt != 0 && r.Attempt != st.Attempt:
		return fmt.Sprintf("attempt %d is awaited", st.Attempt)
	case r.Outcome == InProgress:
		return m.extend(i, r.Extend)
	case st.Waiting:
		return "the next attempt is already scheduled"
	}
	m.tryAgain(i, r.failure("retry"), r.RetryAfter)
	return ""
}

// awaits says whether a step waits for a reply of that phase, and whether it
// would at least take a late final one: a step given up may still turn out to
// have succeeded or failed until its compensation is sent, and a stuck one
// until somebody resolves it.
func awaits(st StepState, phase Phase) (awaited, accepts bool) {
	switch {
	case phase == Action && st.Status == StepRunning, phase == Compensation && st.Status == StepCompensating:
		return true, true
	case phase == Action && st.Status == StepUnknown, st.Status == StepStuck && st.Phase == phase && !st.disputed():
		return false, true
	}
	return false, false
}

func (m *machine) succeed(i int, r Reply) {
	if r.Phase == Compensation {
		m.record(Entry{Type: StepUndone, Step: i + 1, Phase: Compensation, Attempt: r.Attempt})
		return
	}
	m.actionSucceeded(i, r.Attempt, r.Result)
}

func (m *machine) actionSucceeded(i, attempt int, result json.RawMessage) {
	m.record(Entry{Type: StepSuccess, Step: i + 1, Phase: Action, Attempt: attempt, Result: canonical(result)})
	if i == m.def.pivot && m.def.Deadline > 0 && m.state.DeadlineAt.IsZero() && !m.state.Overdue { // it passed while the pivot was in flight
		m.record(Entry{Type: BecameOverdue})
	}
}

// canonical is the form that a result has after it was stored. Payloads are
// made of results, and every attempt of an effect carries the same one.
func canonical(result json.RawMessage) json.RawMessage {
	if b, err := json.Marshal(result); err == nil && result != nil {
		return b
	}
	return result // not JSON: cannot be stored either
}

// fail handles a definitive no of an action: it had no effect.
func (m *machine) fail(i int, r Reply) (ignored string) {
	step, st := m.def.Steps[i], m.state.Steps[i]
	failure := r.failure("failed")
	if step.Kind == Retriable {
		switch {
		case st.Status == StepStuck:
			return "the step is stuck"
		case st.IssuedAt.IsZero(): // said of a generation that has not been sent
			return "the next attempt is already scheduled"
		}
		// A participant answers a known effect id with its stored reply, so
		// another try needs another effect id.
		m.again(i, st.Generation+1, failure, 0)
		return ""
	}
	turned := m.state.Cause != nil
	m.record(Entry{Type: StepFailure, Step: i + 1, Phase: Action, Attempt: r.Attempt, Error: &failure})
	if !turned {
		m.turnBack(Failure{Code: failure.Code, Message: failure.Message, Step: step.Name})
	}
	return ""
}

// tryAgain handles an attempt without an answer, or with a transient error.
func (m *machine) tryAgain(i int, failure Failure, atLeast time.Duration) {
	m.again(i, m.state.Steps[i].Generation, failure, atLeast)
}

// EffectLife is how long an effect is tried: as long as participants remember
// it. One that has forgotten it could do it twice, and refuses it.
const EffectLife = 7 * 24 * time.Hour

// again schedules the next attempt, or gives the operation up: an action whose
// outcome is unknown is compensated; past the point of no return, and for a
// compensation, only a person can help.
func (m *machine) again(i, generation int, failure Failure, atLeast time.Duration) {
	step, st := m.def.Steps[i], m.state.Steps[i]
	settling := m.state.Cause != nil && st.Phase == Action
	policy := step.Retry
	if st.Phase == Compensation {
		policy = step.CompensationRetry
	}
	delay := max(policy.backoff(m.state.ID, step.Name, st), atLeast)
	if forgotten := generation == st.Generation && !st.IssuedAt.IsZero() && m.now.Add(delay).Sub(st.IssuedAt) > EffectLife; forgotten {
		failure.Code, failure.Message = "expired", "tried for "+m.now.Sub(st.IssuedAt).String()+", the latest failure: "+failure.Code
	} else if !settling && policy.allows(st.Attempt+1-st.spent()) {
		m.record(Entry{Type: RetryScheduled, Step: i + 1, Phase: st.Phase, Generation: generation, Attempt: st.Attempt,
			DueAt: m.now.Add(delay), Error: &failure})
		return
	}
	m.giveUp(i, generation, failure)
}

// giveUp ends an operation of which nobody knows whether it has happened.
func (m *machine) giveUp(i, generation int, failure Failure) {
	step, st := m.def.Steps[i], m.state.Steps[i]
	if st.Phase == Compensation || step.Kind != Compensatable {
		help := Entry{Type: StepNeedsHelp, Step: i + 1, Phase: st.Phase, Attempt: st.Attempt, Error: &failure}
		if generation > st.Generation {
			help.Generation = generation
		}
		m.record(help)
		return
	}
	m.record(Entry{Type: StepGivenUp, Step: i + 1, Phase: Action, Attempt: st.Attempt, Error: &failure})
	if m.state.Cause == nil {
		m.turnBack(Failure{Code: failure.Code, Message: failure.Message, Step: step.Name})
	}
}

// undeliverable handles a command that no participant will ever see. If it was
// the first of its operation nothing has happened, which is as good as a
// definitive no; else nobody knows what an earlier one has done.
func (m *machine) undeliverable(u Undeliverable) (ignored string) {
	i := m.def.Index(u.Step)
	if i < 0 {
		return fmt.Sprintf("the definition has no step %q", u.Step)
	}
	st := m.state.Steps[i]
	awaited, _ := awaits(st, u.Phase)
	switch {
	case m.state.Status.Ended():
		return "the saga is " + string(m.state.Status)
	case !awaited:
		return fmt.Sprintf("the step is %s", st.Status)
	case u.Generation != st.Generation:
		return fmt.Sprintf("generation %d is awaited", st.Generation)
	case u.Attempt != st.Attempt || st.Waiting:
		return "another attempt is awaited"
	}
	failure := Failure{Code: "undeliverable", Message: u.Reason, Step: u.Step}
	if u.Phase == Action && m.def.Steps[i].Kind != Retriable && st.Attempt == 1 {
		return m.fail(i, Reply{Step: u.Step, Phase: Action, Attempt: u.Attempt, Failure: &failure})
	}
	m.giveUp(i, st.Generation, failure)
	return ""
}

// extend moves the deadline of the current attempt, at most to MaxDuration
// after the effect's first command. During a backoff it means that the
// participant is at work after all, so the resend is called off.
func (m *machine) extend(i int, by time.Duration) (ignored string) {
	step, st := m.def.Steps[i], m.state.Steps[i]
	if by <= 0 {
		by = step.Timeout
	}
	due := m.now.Add(by)
	if limit := st.IssuedAt.Add(step.MaxDuration); due.After(limit) {
		due = limit
	}
	if !due.After(m.now) || (!st.Waiting && !due.After(st.DueAt)) {
		return "the deadline cannot be extended further"
	}
	m.record(Entry{Type: DeadlineExtended, Step: i + 1, Phase: st.Phase, Attempt: st.Attempt, DueAt: due, Reason: string(InProgress)})
	return ""
}

// failure is what the reply says went wrong; code stands in where it says nothing.
func (r Reply) failure(code string) Failure {
	f := Failure{Code: code, Step: r.Step}
	if r.Failure != nil {
		f.Message = r.Failure.Message
		if r.Failure.Code != "" {
			f.Code = r.Failure.Code
		}
	}
	return f
}

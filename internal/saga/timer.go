package saga

import (
	"hash/fnv"
	"io"
	"math"
	"strconv"
	"time"
)

// tick deals with whatever is due at m.now.
func (m *machine) tick(t Tick) (ignored string) {
	if m.state.Status.Ended() {
		return "the saga is " + string(m.state.Status)
	}
	if m.state.Paused() {
		return "the saga is paused"
	}
	if at := m.state.StartAt; !at.IsZero() && !at.After(m.now) {
		m.record(Entry{Type: BecameDue})
	}
	if at := m.state.DeadlineAt; !at.IsZero() && !at.After(m.now) {
		m.deadline()
	}
	for i := range m.state.Steps {
		st := m.state.Steps[i]
		if st.DueAt.IsZero() || st.DueAt.After(m.now) || m.state.Paused() { // by its deadline, just now
			continue
		}
		switch {
		case st.Waiting:
			m.issue(i, st.Phase, st.Generation, st.Attempt+1)
		case m.holds(i): // nobody works on it: no attempt is spent
			m.record(Entry{Type: StepHold, Step: i + 1, Phase: st.Phase, Generation: st.Generation, Attempt: st.Attempt})
		case t.Publication == Withheld:
			// The participant cannot have seen it: no attempt is spent, and the
			// shell looks again later.
		case t.Publication == JustPublished:
			m.record(Entry{Type: DeadlineExtended, Step: i + 1, Phase: st.Phase, Attempt: st.Attempt,
				DueAt: m.now.Add(m.def.Steps[i].Timeout), Reason: "published late"})
		default:
			m.tryAgain(i, Failure{Code: "timeout", Message: "no reply within " + m.def.Steps[i].Timeout.String(), Step: m.def.Steps[i].Name}, 0)
		}
	}
	return ""
}

// deadline handles the saga's own: undo while that is possible, or let an
// operator decide, if the definition says so; else go on and say so. With the
// pivot in flight it is not known yet which of the two.
func (m *machine) deadline() {
	switch {
	case pivotPassed(m.def, m.state):
		m.record(Entry{Type: BecameOverdue})
	case m.def.OnDeadline == DeadlineSuspends:
		m.record(Entry{Type: Suspended, Reason: "not completed within " + m.def.Deadline.String()})
	case pivotInFlight(m.def, m.state), pivotStuck(m.def, m.state):
		m.record(Entry{Type: DeadlinePassed})
	default:
		m.turnBack(Failure{Code: "deadline", Message: "not completed within " + m.def.Deadline.String()})
	}
}

// allows reports whether the policy has room for that attempt.
func (p RetryPolicy) allows(attempt int) bool {
	return p.MaxAttempts == 0 || attempt <= p.MaxAttempts
}

// backoff is the wait after the current attempt: exponential, capped, with
// full jitter (Brooker, "Exponential Backoff And Jitter", AWS 2015). The
// jitter is a hash of what identifies the attempt, so that replaying a saga
// gives the same times.
func (p RetryPolicy) backoff(id, step string, st StepState) time.Duration {
	ceiling := min(float64(p.Initial)*math.Pow(2, float64(st.Attempt-st.spent()-1)), float64(p.Max))
	h := fnv.New64a()
	_, _ = io.WriteString(h, id+"/"+step+"/"+string(st.Phase)+"/"+strconv.Itoa(st.Generation)+"/"+strconv.Itoa(st.Attempt))
	return time.Duration(ceiling * float64(mix(h.Sum64())>>11) / (1 << 53)).Truncate(time.Millisecond)
}

// mix spreads a hash over all bits (the finalizer of MurmurHash3). FNV alone
// lets the attempt, which comes last, change the fraction by a thousandth: a
// saga with a short first wait would burn all its attempts at once.
func mix(h uint64) uint64 {
	h = (h ^ h>>33) * 0xff51afd7ed558ccd
	h = (h ^ h>>33) * 0xc4ceb9fe1a85ec53
	return h ^ h>>33
}

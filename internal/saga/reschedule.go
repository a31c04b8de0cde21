package saga

import "time"

// TimerKind says what happens at the time of a [Timer].
type TimerKind string

// The kinds of timers.
const (
	StartTimer    TimerKind = "start"        // the saga begins
	DeadlineTimer TimerKind = "deadline"     // the saga's deadline passes
	TimeoutTimer  TimerKind = "step-timeout" // an attempt is waited for no longer
	BackoffTimer  TimerKind = "backoff"      // the next attempt goes out
)

// Awaited is what a timer is for. Once the state awaits something else, the
// timer is gone: 2.1 (1).
type Awaited struct {
	Kind       TimerKind
	Step       string // empty: the saga itself; so are the others then
	Phase      Phase
	Generation int
	Attempt    int
}

// Timer is a time that a saga waits for.
type Timer struct {
	Awaited
	FireAt time.Time
}

// Timers lists what a saga waits for: nothing while it is paused.
func Timers(def *Definition, s State) []Timer {
	var all []Timer
	if s.Paused() {
		return nil
	}
	if !s.StartAt.IsZero() {
		all = append(all, Timer{Awaited{Kind: StartTimer}, s.StartAt})
	}
	if !s.DeadlineAt.IsZero() {
		all = append(all, Timer{Awaited{Kind: DeadlineTimer}, s.DeadlineAt})
	}
	for i, st := range s.Steps {
		if st.DueAt.IsZero() {
			continue
		}
		a := Awaited{Kind: TimeoutTimer, Step: def.Steps[i].Name, Phase: st.Phase, Generation: st.Generation, Attempt: st.Attempt}
		if st.Waiting {
			a.Kind = BackoffTimer
		}
		all = append(all, Timer{a, st.DueAt})
	}
	return all
}

// Reschedule moves a timer. One that is moved to the past is due at once.
type Reschedule struct {
	Timer         Awaited
	At            time.Time // zero: never. Only a deadline can be done without
	Reason, Actor string
}

func (Reschedule) event() {}

// reschedule moves a timer that the state still awaits. Its start takes the
// deadline with it, which counts from there.
func (m *machine) reschedule(r Reschedule) (ignored, illegal string) {
	if m.state.Status.Ended() {
		return "", IllegalEnded
	}
	if m.state.Paused() {
		return "", IllegalPaused
	}
	var timer Timer
	for _, t := range Timers(m.def, m.state) {
		if t.Awaited == r.Timer {
			timer = t
		}
	}
	at := r.At
	if !at.IsZero() && at.Before(m.now) {
		at = m.now
	}
	moved := Entry{Reason: r.Reason, Actor: r.Actor}
	switch {
	case timer.FireAt.IsZero():
		return "", IllegalNoTimer
	case at.IsZero() && timer.Kind != DeadlineTimer:
		return "", IllegalTimerNeeded
	case at.Equal(timer.FireAt):
		return "it fires at that time already", ""
	case timer.Kind == StartTimer:
		moved.Type, moved.StartAt = StartMoved, at
		if !m.state.DeadlineAt.IsZero() {
			moved.DueAt = m.state.DeadlineAt.Add(at.Sub(timer.FireAt))
		}
	case timer.Kind == DeadlineTimer:
		moved.Type, moved.DueAt = DeadlineMoved, at
	default:
		moved.Type, moved.DueAt, moved.Step = TimerMoved, at, m.def.Index(timer.Step)+1
		moved.Phase, moved.Generation, moved.Attempt = timer.Phase, timer.Generation, timer.Attempt
	}
	m.record(moved)
	return "", ""
}

package saga

import (
	"encoding/json"
	"fmt"
	"slices"
	"time"
)

// Start begins a saga: the first entries of its history and, unless it has to
// wait, its first commands. The input must be valid JSON. The only error is a
// [*LockError].
func Start(def *Definition, id string, input json.RawMessage, now time.Time) (Decision, error) {
	return StartWith(def, id, input, Opening{}, now)
}

// Opening is what a start may say beside the input.
type Opening struct {
	StartAt time.Time         // before this its first steps do not begin; zero: at once
	Again   Origin            // the saga that it takes up again; zero: none
	Key     string            // what people call it; empty: nothing
	Labels  map[string]string // what people file it under; not changed afterwards
	Held    []string          // participants that get no commands now, see [Advance]
}

// Origin is the saga that a new one takes up again, and who asked for that. It
// has been undone or abandoned; the new one has effects of its own.
type Origin struct{ Saga, Reason, Actor string }

// StartWith is [Start] with more to say.
func StartWith(def *Definition, id string, input json.RawMessage, o Opening, now time.Time) (Decision, error) {
	m := machine{def: def, now: now, state: State{ID: id, Input: input}, held: o.Held}
	started := Entry{Type: Started, RestartOf: o.Again.Saga, Reason: o.Again.Reason, Actor: o.Again.Actor, Key: o.Key, Labels: o.Labels}
	due := now
	if o.StartAt.After(now) {
		due, started.StartAt = o.StartAt, o.StartAt
	}
	if def.Deadline > 0 {
		started.DueAt = due.Add(def.Deadline)
	}
	lock, err := m.lockFor()
	if err != nil {
		return Decision{}, err
	}
	if lock != nil {
		started.Lock = lock.Key
	}
	m.record(started)
	m.progress()
	return Decision{Next: m.state, History: m.history, Commands: m.commands}, nil
}

// Advance applies one event. Late, repeated and reordered events are ordinary
// with at-least-once delivery: they are ignored with a reason, never an error.
// An error means that the state does not fit the definition. s is not changed.
//
// To participants that are held no command is issued: what they should get is
// withheld, and goes with the first event after they are not held any more. No
// time runs for what they have already.
func Advance(def *Definition, s State, ev Event, now time.Time, held ...string) (Decision, error) {
	if len(s.Steps) != len(def.Steps) {
		return Decision{}, fmt.Errorf("saga %s has %d steps, its definition %s has %d", s.ID, len(s.Steps), def.Name, len(def.Steps))
	}
	m := machine{def: def, now: now, state: s, held: held}
	m.state.Steps = slices.Clone(s.Steps)
	var ignored, illegal string
	switch ev := ev.(type) {
	case Reply:
		ignored = m.reply(ev)
	case Granted:
		ignored = m.granted()
	case Undeliverable:
		ignored = m.undeliverable(ev)
	case Tick:
		ignored = m.tick(ev)
	case Cancel:
		ignored, illegal = m.cancel(ev)
	case TryNow:
		illegal = m.tryNow(ev)
	case Resolve:
		ignored, illegal = m.resolve(ev)
	case Abandon:
		ignored, illegal = m.abandon(ev)
	case Pause:
		ignored, illegal = m.pause(ev)
	case Resume:
		ignored, illegal = m.resume(ev)
	case Reschedule:
		ignored, illegal = m.reschedule(ev)
	default:
		return Decision{}, fmt.Errorf("saga %s: unknown event %T", s.ID, ev)
	}
	if ignored != "" || illegal != "" {
		return Decision{Next: s, Ignored: ignored, Illegal: illegal}, nil
	}
	m.progress()
	if len(m.history) == 0 {
		return Decision{Next: s, Ignored: "nothing is due"}, nil
	}
	return Decision{Next: m.state, History: m.history, Commands: m.commands}, nil
}

// machine is one decision in the making.
type machine struct {
	def      *Definition
	now      time.Time
	state    State
	held     []string // participants
	history  []Entry
	commands []Command
	scope    *scope // what expressions see; made when the first one asks
}

// record notes a fact and lets it change the state: nothing else may.
func (m *machine) record(e Entry) {
	e.At = m.now
	m.history = append(m.history, e)
	m.state.apply(e, len(m.def.Steps))
}

// turnBack ends the way forward. Steps in flight are settled first: they get
// no new attempts, so those that only wait for one are given up here.
func (m *machine) turnBack(cause Failure) {
	m.record(Entry{Type: TurnedBack, Error: &cause})
	for i, st := range m.state.Steps {
		if st.Status == StepRunning && st.Waiting {
			m.record(Entry{Type: StepGivenUp, Step: i + 1, Phase: Action, Error: st.Error})
		}
	}
}

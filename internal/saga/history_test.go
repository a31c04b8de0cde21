package saga_test

import (
	"encoding/json"
	"testing"

	"pgregory.net/rapid"

	"github.com/skald-saga/skald/internal/saga"
)

// P7 is checked after every event of every test in this package (life.give).

func TestFoldRefusesWhatIsNoHistory(t *testing.T) {
	t.Parallel()
	def := parse(t, linear)
	started := saga.Entry{Type: saga.Started, At: t0}
	for name, history := range map[string][]saga.Entry{
		"nothing":                     nil,
		"a beginning in the middle":   {{Type: saga.CommandIssued, Step: 1, Phase: saga.Action}},
		"two beginnings":              {started, started},
		"the beginning of a step":     {{Type: saga.Started, Step: 1}},
		"a step that is not there":    {started, {Type: saga.StepSkip, Step: 4}},
		"a step before the first one": {started, {Type: saga.StepSkip, Step: -1}},
	} {
		if s, err := saga.Fold(def, id, json.RawMessage(`{}`), history); err == nil {
			t.Errorf("%s: folded to %+v", name, s)
		}
	}
}

// A damaged history is an error or another state, but never a crash.
func TestFoldTakesAnyEntries(t *testing.T) {
	t.Parallel()
	def := parse(t, pivoted)
	words := []saga.EntryType{
		saga.Started, saga.CommandIssued, saga.StepSkip, saga.StepSuccess, saga.RetryScheduled, saga.DeadlineExtended, saga.StepFailure,
		saga.StepGivenUp, saga.StepUndone, saga.StepNeedsHelp, saga.TurnedBack, saga.CancelAsked, saga.DeadlinePassed, saga.BecameOverdue,
		saga.BecameStuck, saga.NoLongerStuck, saga.EndedCompleted, saga.EndedCompensated, "",
	}
	rapid.Check(t, func(t *rapid.T) {
		history := []saga.Entry{{Type: saga.Started}}
		for range rapid.IntRange(0, 20).Draw(t, "entries") {
			history = append(history, saga.Entry{
				Type: rapid.SampledFrom(words).Draw(t, "type"), Step: rapid.IntRange(-1, 4).Draw(t, "step"),
				Phase: rapid.SampledFrom([]saga.Phase{saga.Action, saga.Compensation, ""}).Draw(t, "phase"),
			})
		}
		s, err := saga.Fold(def, id, nil, history)
		if err == nil && len(s.Steps) != 3 {
			t.Fatalf("%d steps", len(s.Steps))
		}
	})
}

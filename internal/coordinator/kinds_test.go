package coordinator_test

import (
	"encoding/json"
	"testing"

	"github.com/skald-saga/skald/internal/coordinator"
	"github.com/skald-saga/skald/internal/saga"
	"github.com/skald-saga/skald/internal/wire"
)

func (f *fixture) startText(text string) coordinator.Saga {
	f.t.Helper()
	def, err := saga.Parse([]byte(text))
	if err != nil {
		f.t.Fatal(err)
	}
	if err := f.c.Register(f.t.Context(), def); err != nil {
		f.t.Fatal(err)
	}
	s, err := f.c.Start(f.t.Context(), coordinator.StartRequest{Definition: def.Name, Input: json.RawMessage(`{}`)})
	if err != nil {
		f.t.Fatal(err)
	}
	return s.Saga
}

// A saga that awaits nothing has ended when its start is answered, and its
// commands go out all the same.
func TestASagaOfNotificationsHasEndedWhenItIsStarted(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	s := f.startText("name: tell\nsteps: [{name: n, participant: p, action: tell, kind: notification}]")
	told := f.only()
	if s.Status != saga.Completed || told.EffectID.Step != "n" {
		t.Errorf("started: %s, sent %+v", s.Status, told)
	}
	f.wantEnd("completed")
	f.answer(told, wire.Succeeded) // as participants do
	if got := f.get(s.ID); got.Version != 1 || got.StaleReplies != 1 {
		t.Errorf("after an answer: version %d, %d stale", got.Version, got.StaleReplies)
	}
	f.verifyHistory()
}

func TestAStepWithoutAnActionIsUndoneAsIfItHadOne(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	s := f.startText("name: undo\nsteps:\n- {name: u, participant: p, action: none, compensation: undo-u}\n- {name: b, participant: p, action: do-b, compensation: none}")
	f.answer(f.only(), wire.Failed)
	undo := f.only()
	want := wire.EffectID{Saga: s.ID.String(), Step: "u", Phase: wire.Action, Generation: 1}
	if undo.Compensates == nil || *undo.Compensates != want || undo.ActionOutcome != wire.Succeeded {
		t.Errorf("the compensation is %+v", undo)
	}
	f.answer(undo, wire.Succeeded)
	if got := f.get(s.ID); got.Status != saga.Compensated {
		t.Errorf("the saga is %s", got.Status)
	}
	f.verifyHistory()
}

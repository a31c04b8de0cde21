package coordinator_test

import (
	"testing"

	"github.com/skald-saga/skald/internal/saga"
	"github.com/skald-saga/skald/internal/wire"
)

func TestASagaCompletesStepByStep(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	s := f.start()
	for _, want := range []string{"skald.cmd.inventory.reserve", "skald.cmd.payment.charge", "skald.cmd.inventory.commit"} {
		cmd := f.only()
		if cmd.Subject != want {
			t.Fatalf("command is for %s, want %s", cmd.Subject, want)
		}
		f.answer(cmd, wire.Succeeded)
	}
	got := f.get(s.ID)
	if got.Status != saga.Completed || got.EndedAt == nil || len(f.commands()) != 0 {
		t.Errorf("the saga is %s", got.Status)
	}
	f.verifyHistory()
}

func TestARefusedStepTurnsTheSagaBack(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	s := f.start()
	f.answer(f.only(), wire.Succeeded)
	f.answer(f.only(), wire.Failed)
	undo := f.only()
	if undo.Subject != "skald.cmd.inventory.release" || undo.Compensates == nil || undo.Compensates.Step != "reserve" {
		t.Fatalf("after the refusal came %+v", undo)
	}
	f.answer(undo, wire.Succeeded)
	got := f.get(s.ID)
	if got.Status != saga.Compensated || got.Error == nil || got.Error.Code != "card_declined" {
		t.Errorf("the saga is %s because of %+v", got.Status, got.Error)
	}
	f.verifyHistory()
}

package coordinator_test

import (
	"errors"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/skald-saga/skald/internal/coordinator"
	"github.com/skald-saga/skald/internal/saga"
	"github.com/skald-saga/skald/internal/testkit"
	"github.com/skald-saga/skald/internal/wire"
)

var stocktaking = coordinator.Operation{Actor: "ada", Reason: "stocktaking"}

func (f *fixture) pauseParticipant(name string) {
	f.t.Helper()
	p, err := f.c.PauseParticipant(f.t.Context(), name, stocktaking)
	if err != nil || p == nil || p.Actor != stocktaking.Actor || p.Reason != stocktaking.Reason {
		f.t.Fatalf("paused %s: %+v, %v", name, p, err)
	}
}

func (f *fixture) resumeParticipant(name string) {
	f.t.Helper()
	if err := f.c.ResumeParticipant(f.t.Context(), name, stocktaking); err != nil {
		f.t.Fatal(err)
	}
}

// awaitCommand waits for the next command.
func (f *fixture) awaitCommand() (cmd wire.Command) {
	f.t.Helper()
	testkit.Eventually(f.t, "a command", 20*time.Second, func() (bool, string) {
		commands := f.commands()
		if len(commands) > 0 {
			cmd = commands[0]
		}
		return len(commands) > 0, "none"
	})
	return cmd
}

func (f *fixture) wantSteps(id uuid.UUID, want ...saga.StepStatus) {
	f.t.Helper()
	got := f.get(id)
	for i, st := range got.Steps {
		if st.Status != want[i] {
			f.t.Errorf("step %s is %s, want %s", st.Name, st.Status, want[i])
		}
	}
}

func TestAPausedParticipantGetsItsCommandsWhenItIsResumed(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	before := f.start()
	reserve := f.only()
	f.pauseParticipant("inventory")
	held := f.start()
	if n := len(f.commands()); n != 0 {
		t.Fatalf("%d commands to a participant that is paused", n)
	}
	f.wantSteps(held.ID, saga.StepHeld, saga.StepPending, saga.StepPending)
	f.answer(reserve, wire.Succeeded) // what it says counts, and others go on
	if charge := f.only(); charge.Subject != "skald.cmd.payment.charge" {
		t.Errorf("the next command is for %s", charge.Subject)
	} else {
		f.answer(charge, wire.Succeeded)
	}
	f.wantSteps(before.ID, saga.StepSucceeded, saga.StepSucceeded, saga.StepHeld)
	if n := f.count(`SELECT count(*) FROM saga_hold`); n != 2 {
		t.Errorf("%d sagas are held", n)
	}
	f.resumeParticipant("inventory")
	seen := map[string]bool{}
	testkit.Eventually(t, "what was withheld is sent", 20*time.Second, func() (bool, string) {
		for _, cmd := range f.commands() {
			seen[cmd.Subject] = true
		}
		return seen["skald.cmd.inventory.reserve"] && seen["skald.cmd.inventory.commit"], "not yet"
	})
	f.wantSteps(held.ID, saga.StepRunning, saga.StepPending, saga.StepPending)
	f.verifyHistory()
	if n := f.count(`SELECT count(*) FROM saga_hold`); n != 0 {
		t.Errorf("%d sagas are held after the pause", n)
	}
}

// Another server sends nothing either, as soon as it has looked.
func TestEveryServerLearnsOfAPause(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	other := f.coordinator(nil)
	f.pauseParticipant("inventory")
	testkit.Eventually(t, "the other server withholds", 5*time.Second, func() (bool, string) {
		s, err := other.Start(t.Context(), coordinator.StartRequest{Definition: "order", Input: []byte(`{}`)})
		if err != nil {
			return false, err.Error()
		}
		return s.Saga.Steps[0].Status == saga.StepHeld, string(s.Saga.Steps[0].Status)
	})
}

func TestAPausedDefinitionAcceptsSagasThatWait(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	if _, err := f.c.PauseDefinition(t.Context(), "order", stocktaking); err != nil {
		t.Fatal(err)
	}
	f.pauseParticipant("inventory")
	s := f.start()
	f.wantSteps(s.ID, saga.StepHeld, saga.StepPending, saga.StepPending)
	// Two pauses withhold it: when one is over the other one still does.
	if err := f.c.ResumeDefinition(t.Context(), "order", stocktaking); err != nil {
		t.Fatal(err)
	}
	testkit.Eventually(t, "the other pause withholds it", 20*time.Second, func() (bool, string) {
		return f.count(`SELECT count(*) FROM saga_hold WHERE kind = 'participant' AND name = 'inventory'`) == 1 &&
			f.count(`SELECT count(*) FROM saga_hold WHERE kind = 'definition'`) == 0, "not yet"
	})
	f.wantSteps(s.ID, saga.StepHeld, saga.StepPending, saga.StepPending)
	f.resumeParticipant("inventory")
	if cmd := f.awaitCommand(); cmd.Subject != "skald.cmd.inventory.reserve" {
		t.Errorf("%s was sent", cmd.Subject)
	}
	f.verifyHistory()
}

// P2: what waits for the end of a pause is looked at now and then, should
// nobody have noticed the end.
func TestAHeldSagaIsNotForgotten(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.pauseParticipant("inventory")
	f.start()
	f.clock.advance(11 * time.Second) // the row that it was started with is used up
	testkit.Eventually(t, "it will be looked at later", 20*time.Second, func() (bool, string) {
		n := f.count(`SELECT count(*) FROM saga_timer WHERE due_at > $1`, f.clock.Now())
		return n == 1, "not yet"
	})
	if _, err := f.pool.Exec(t.Context(), `DELETE FROM saga_hold`); err != nil {
		t.Fatal(err)
	}
	f.resumeParticipant("inventory")
	f.clock.advance(6 * time.Minute)
	f.awaitCommand()
}

func TestPausesAreNotedAndMayBeRepeated(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	for range 2 {
		f.pauseParticipant("payment")
	}
	for range 2 {
		f.resumeParticipant("payment")
	}
	f.pauseParticipant("payment")
	var got []string
	for _, e := range f.log(coordinator.AuditFilter{}) {
		got = append(got, e.Action+" "+e.Target+" "+e.TargetID+": "+e.Outcome)
	}
	want := []string{
		"pause participant payment: applied", "pause participant payment: unchanged",
		"resume participant payment: applied", "resume participant payment: unchanged", "pause participant payment: applied",
	}
	if len(got) != len(want) {
		t.Fatalf("the log has %v", got)
	}
	for i := range want {
		if got[i] != want[i] {
			t.Errorf("entry %d is %q, want %q", i+1, got[i], want[i])
		}
	}
	pauses, err := f.c.Pauses(t.Context())
	if err != nil || len(pauses) != 1 || pauses[0].Name != "payment" || !pauses[0].Since.Equal(f.clock.Now()) {
		t.Errorf("paused are %+v, %v", pauses, err)
	}
	if _, err := f.c.PauseParticipant(t.Context(), "paymemt", stocktaking); !errors.Is(err, coordinator.ErrNotFound) {
		t.Errorf("a typo: %v", err)
	}
	if err := f.c.ResumeDefinition(t.Context(), "payment", stocktaking); !errors.Is(err, coordinator.ErrNotFound) {
		t.Errorf("a participant is no definition: %v", err)
	}
}

// P10: a saga that is paused itself cannot be released yet, and holds up nobody.
func TestAPausedSagaDoesNotHoldUpTheEndOfAPause(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.start()
	reserve := f.only()
	f.pauseParticipant("inventory")
	f.pauseParticipant("payment")
	paused := f.start()
	if _, err := f.c.Pause(t.Context(), paused.ID, stocktaking); err != nil {
		t.Fatal(err)
	}
	f.start()
	f.answer(reserve, wire.Succeeded)
	f.resumeParticipant("inventory")
	if cmd := f.awaitCommand(); cmd.Subject != "skald.cmd.inventory.reserve" {
		t.Fatalf("the first command is for %s", cmd.Subject)
	}
	f.resumeParticipant("payment") // now that the server is busy with the other
	if cmd := f.awaitCommand(); cmd.Subject != "skald.cmd.payment.charge" {
		t.Errorf("the next command is for %s", cmd.Subject)
	}
	if _, err := f.c.Resume(t.Context(), paused.ID, stocktaking); err != nil {
		t.Fatal(err)
	}
	if cmd := f.awaitCommand(); cmd.Saga != paused.ID.String() {
		t.Errorf("the last command is of saga %s", cmd.Saga)
	}
	f.verifyHistory()
}

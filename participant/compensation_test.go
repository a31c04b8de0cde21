package participant_test

import (
	"errors"
	"testing"

	"github.com/skald-saga/skald/internal/wire"
	"github.com/skald-saga/skald/participant"
)

// P5: a compensation undoes the effect once, however often it comes.
func TestACompensationUndoesOnce(t *testing.T) {
	t.Parallel()
	w := open(t)
	n := w.works(participant.Config{})
	s := w.step()
	w.send(s.action())
	for _, outcome := range []wire.Outcome{wire.Succeeded, wire.Succeeded, wire.Unknown} {
		want(t, "reply", text(w.send(s.compensation(outcome))), "succeeded 1")
	}
	want(t, "calls", n.undo.Load(), 1)
	want(t, "effects", s.rows(), "1/1")
	want(t, "a late duplicate of the action", text(w.send(s.action())), "succeeded 1")
	want(t, "effects", s.rows(), "1/1")
}

// P5: a compensation that overtakes its action has nothing to undo, and the
// action must never happen.
func TestAnActionAfterItsCompensationIsRefused(t *testing.T) {
	t.Parallel()
	w := open(t)
	n := w.works(participant.Config{})
	s := w.step()

	want(t, "compensation", text(w.send(s.compensation(wire.Unknown))), "succeeded null")
	want(t, "inbox", s.inbox(wire.Action), "void")
	for range 2 {
		want(t, "late action", text(w.send(s.action())), "failed compensated")
	}
	want(t, "compensation again", text(w.send(s.compensation(wire.Unknown))), "succeeded null")
	want(t, "calls", n.do.Load()+n.undo.Load(), 0)
	want(t, "effects", s.rows(), "0/0")
}

// P5: a refused action had no effect.
func TestACompensationOfARefusedActionDoesNothing(t *testing.T) {
	t.Parallel()
	w := open(t)
	n := &calls{fail: func(string) error { return participant.Refuse("no", "no") }}
	w.run(participant.Config{}, n.register)
	s := w.step()
	w.send(s.action())
	want(t, "compensation", text(w.send(s.compensation(wire.Unknown))), "succeeded null")
	want(t, "calls", n.undo.Load(), 0)
}

// P5: as long as the action's transaction is open, nobody knows whether there
// will be an effect.
func TestACompensationWaitsForAnOpenAction(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name, reply, effects string
		err                  error
	}{
		{"that commits, and undoes it", "succeeded 1", "1/1", nil},
		{"that rolls back, and prevents it", "succeeded null", "0/0", errors.New("no")},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			w := open(t)
			entered, leave := make(chan bool, 1), make(chan bool)
			n := &calls{fail: func(what string) error {
				if what == "do" {
					entered <- true
					<-leave
					return tc.err
				}
				return nil
			}}
			w.run(participant.Config{}, n.register)
			release := w.opener(leave)
			s := w.step()

			action, compensation := s.action(), s.compensation(wire.Unknown)
			done := w.post(action)
			<-entered
			undone := w.post(compensation)
			w.awaitLockWait(1)
			release()
			w.await(action, done)
			want(t, "reply", text(w.await(compensation, undone)), tc.reply)
			want(t, "effects", s.rows(), tc.effects)
		})
	}
}

// P5: the engine knows that the action succeeded. That the inbox does not know
// it (a restored database, a purge) is no reason to keep the effect.
func TestAKnownSuccessIsUndoneEvenIfTheInboxForgotIt(t *testing.T) {
	t.Parallel()
	w := open(t)
	n := w.works(participant.Config{})
	s := w.step()
	w.send(s.action())
	if _, err := w.pool.Exec(t.Context(), `DELETE FROM skald_inbox`); err != nil {
		t.Fatal(err)
	}
	want(t, "reply", text(w.send(s.compensation(wire.Succeeded))), "succeeded 1")
	want(t, "calls", n.undo.Load(), 1)
	want(t, "effects", s.rows(), "1/1")
	want(t, "a late action", text(w.send(s.action())), "failed compensated")
	want(t, "effects", s.rows(), "1/1")
}

// A compensation has no definitive failure: whatever goes wrong is tried again.
func TestAFailedCompensationIsTriedAgain(t *testing.T) {
	t.Parallel()
	for name, err := range map[string]error{
		"an error": errors.New("disk full"), "a refusal": participant.Refuse("never", "no way"),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := open(t)
			n := &calls{}
			n.fail = func(what string) error {
				if what == "undo" && n.undo.Load() == 1 {
					return err
				}
				return nil
			}
			w.run(participant.Config{}, n.register)
			s := w.step()
			w.send(s.action())
			want(t, "first attempt", text(w.send(s.compensation(wire.Succeeded))), "retry transient")
			want(t, "inbox", s.inbox(wire.Compensation), "")
			want(t, "effects", s.rows(), "1/0")
			want(t, "second attempt", text(w.send(s.compensation(wire.Succeeded))), "succeeded 2")
			want(t, "effects", s.rows(), "1/1")
		})
	}
}

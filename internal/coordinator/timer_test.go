package coordinator_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/skald-saga/skald/internal/saga"
	"github.com/skald-saga/skald/internal/testkit"
	"github.com/skald-saga/skald/internal/wire"
)

// await waits until the next command is written; the clock goes on meanwhile.
func (f *fixture) await(pace time.Duration) wire.Command {
	f.t.Helper()
	var commands []wire.Command
	testkit.Eventually(f.t, "a command is written", 30*time.Second, func() (bool, string) {
		f.clock.advance(pace)
		commands = f.commands()
		return len(commands) > 0, ""
	})
	if len(commands) != 1 {
		f.t.Fatalf("%d commands were written, want 1: %+v", len(commands), commands)
	}
	return commands[0]
}

// P2, P3: a participant that says nothing is asked again, with the same effect
// id, and when it has said nothing for too long the step is undone as well:
// it may have happened.
func TestASilentParticipantIsAskedAgainAndThenUndone(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	s := f.start()
	f.answer(f.only(), wire.Succeeded)
	first := f.only()
	f.published()
	second := f.await(100 * time.Millisecond)
	if second.EffectID != first.EffectID || second.Attempt != 2 {
		t.Fatalf("the second attempt is %+v", second)
	}
	if n := f.count(`SELECT count(DISTINCT msg_id) FROM outbox`); n != 3 {
		t.Errorf("%d message ids for 3 commands", n)
	}
	f.published()
	refund := f.await(100 * time.Millisecond)
	if refund.Subject != "skald.cmd.payment.refund" || refund.ActionOutcome != wire.Unknown {
		t.Fatalf("after giving up came %+v", refund)
	}
	f.answer(refund, wire.Succeeded)
	f.answer(f.only(), wire.Succeeded)
	if got := f.get(s.ID); got.Status != saga.Compensated || got.Error.Code != "timeout" {
		t.Errorf("the saga is %s because of %+v", got.Status, got.Error)
	}
	f.verifyHistory()
}

// A saga that nothing holds up costs one timer row, also if its later steps
// have shorter timeouts, and each of its timeouts is kept all the same.
func TestAnOrdinarySagaSetsOneTimer(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	def, err := saga.Parse([]byte(strings.ReplaceAll(threeSteps, "timeout: 10s, retry: {max_attempts: 2", "timeout: 10s, retry: {max_attempts: 3") + `
  - {name: ship, participant: shipping, action: ship, kind: retriable, timeout: 3s}
`))
	if err != nil {
		t.Fatal(err)
	}
	if err := f.c.Register(t.Context(), def); err != nil {
		t.Fatal(err)
	}
	f.start()
	if due := f.count(`SELECT extract(epoch FROM due_at - $1)::int FROM saga_timer`, f.clock.Now()); due != 3 {
		t.Errorf("the first timer is due in %d s, want 3", due)
	}
	for range 3 {
		f.answer(f.only(), wire.Succeeded)
	}
	if n := f.count(`SELECT count(*) FROM saga_timer`); n != 1 {
		t.Errorf("%d timer rows for a saga without delay, want 1", n)
	}
	f.answer(f.only(), wire.Succeeded)
	f.start() // nobody answers
	f.published()
	asked := f.clock.Now()
	f.only()
	if again := f.await(100 * time.Millisecond); again.Attempt != 2 || f.clock.Now().Sub(asked) < 10*time.Second {
		t.Errorf("attempt %d after %s", again.Attempt, f.clock.Now().Sub(asked))
	}
}

// DESIGN 2.1 (6): while the relay has not sent a command, waiting for its
// answer costs no attempt.
func TestACommandThatWasNotPublishedSpendsNoAttempt(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	s := f.start()
	first := f.only()
	for range 5 {
		f.clock.advance(11 * time.Second)
		testkit.Eventually(t, "its timer was looked at and set again", 20*time.Second, func() (bool, string) {
			n := f.count(`SELECT count(*) FROM saga_timer WHERE withheld AND due_at > $1`, f.clock.Now())
			return n == 1, fmt.Sprint(n)
		})
	}
	if got := f.get(s.ID); got.Version != 1 || got.Steps[0].Attempt != 1 || len(f.commands()) != 0 {
		t.Fatalf("attempts were spent: %+v", got.Steps[0])
	}
	f.published()
	if _, err := f.pool.Exec(t.Context(), `INSERT INTO outbox_parked (seq, lane, key, msg_id, subject, headers, payload, created_at, error)
		SELECT seq, lane, key, msg_id, subject, headers, payload, created_at, 'the stream is full' FROM outbox`); err != nil {
		t.Fatal(err)
	}
	f.clock.advance(31 * time.Second)
	testkit.Eventually(t, "its timer was looked at while the command was parked", 20*time.Second, func() (bool, string) {
		n := f.count(`SELECT count(*) FROM saga_timer WHERE withheld AND due_at > $1`, f.clock.Now())
		return n == 1, fmt.Sprint(n)
	})
	if got := f.get(s.ID); got.Version != 1 || len(f.commands()) != 0 {
		t.Fatalf("attempts were spent while the command was parked: %+v", got.Steps[0])
	}
	if _, err := f.pool.Exec(t.Context(), `DELETE FROM outbox_parked`); err != nil {
		t.Fatal(err)
	}
	f.clock.advance(31 * time.Second)
	testkit.Eventually(t, "the whole timeout begins when the command has left", 20*time.Second, func() (bool, string) {
		step := f.get(s.ID).Steps[0]
		return step.Attempt == 1 && step.DueAt != nil && step.DueAt.Equal(f.clock.Now().Add(10*time.Second)), fmt.Sprint(step.Attempt, step.DueAt)
	})
	again := f.await(100 * time.Millisecond)
	if again.EffectID != first.EffectID || again.Attempt != 2 {
		t.Errorf("after it was published and not answered came %+v", again)
	}
	f.answer(again, wire.Succeeded)
	if got := f.get(s.ID); got.Steps[0].Status != saga.StepSucceeded {
		t.Errorf("step is %s", got.Steps[0].Status)
	}
	f.verifyHistory()
}

// Two servers share the timers: each fires once.
func TestServersShareTimers(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.coordinator(nil)
	f.coordinator(nil)
	const n = 200
	for range n {
		f.start()
	}
	f.published()
	f.clock.advance(11 * time.Second)
	testkit.Eventually(t, "all attempts have timed out", 30*time.Second, func() (bool, string) {
		f.clock.advance(10 * time.Millisecond)
		got := f.count(`SELECT count(*) FROM outbox`)
		return got >= 2*n, fmt.Sprint(got)
	})
	testkit.Eventually(t, "no timer is left that is due", 30*time.Second, func() (bool, string) {
		got := f.count(`SELECT count(*) FROM saga_timer WHERE due_at <= $1`, f.clock.Now())
		return got == 0, fmt.Sprint(got)
	})
	if got := f.count(`SELECT count(*) FROM (SELECT key, headers->>'ce-attempt' FROM outbox GROUP BY 1, 2) attempts`); got != 2*n || f.count(`SELECT count(*) FROM outbox`) != 2*n {
		t.Errorf("%d different attempts, want %d", got, 2*n)
	}
	f.verifyHistory()
}

// P2: every saga that waits for something has a timer, no later than that.
func TestEveryOpenSagaHasATimer(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	check := func(when string) {
		t.Helper()
		if n := f.count(`
			SELECT count(*) FROM saga s WHERE status IN ('running', 'compensating')
			AND NOT EXISTS (SELECT FROM saga_timer t WHERE t.saga_id = s.id AND t.due_at <= s.wake_at)`); n != 0 {
			t.Errorf("%s: %d open sagas have no timer", when, n)
		}
	}
	f.start()
	check("after the start")
	reserve := f.only()
	f.answer(reserve, wire.Retry)
	check("while backing off")
	again := f.await(100 * time.Millisecond)
	check("after the second attempt")
	f.answer(again, wire.Succeeded)
	check("after the first step")
	f.answer(f.only(), wire.InProgress)
	check("while the participant works")
}

// The saga's deadline turns it back while that is possible.
func TestTheDeadlineTurnsASagaBack(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	s := f.start()
	f.answer(f.only(), wire.Succeeded)
	charge := f.only()
	for range 40 { // kept alive beyond the hour
		r := reply(charge, wire.InProgress)
		r.Reply.Extend = 2 * time.Minute
		f.handle(r)
		f.clock.advance(100 * time.Second)
	}
	testkit.Eventually(t, "the deadline has passed", 20*time.Second, func() (bool, string) {
		got := f.get(s.ID)
		return got.Error != nil && got.Error.Code == "deadline", fmt.Sprint(got.Error)
	})
	f.answer(charge, wire.Failed)
	f.answer(f.only(), wire.Succeeded)
	if got := f.get(s.ID); got.Status != saga.Compensated {
		t.Errorf("the saga is %s", got.Status)
	}
	f.verifyHistory()
}

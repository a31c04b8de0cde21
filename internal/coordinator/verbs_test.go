package coordinator_test

import (
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/skald-saga/skald/internal/coordinator"
	"github.com/skald-saga/skald/internal/saga"
	"github.com/skald-saga/skald/internal/testkit"
	"github.com/skald-saga/skald/internal/wire"
)

var ada = coordinator.Operation{Actor: "ada", Reason: "looked it up"}

// stick lets a new saga get stuck at its pivot, whose only attempt it was.
func (f *fixture) stick() (coordinator.Saga, wire.Command) {
	f.t.Helper()
	s := f.startOf("terminal")
	f.answer(f.only(), wire.Succeeded)
	f.answer(f.only(), wire.Succeeded)
	pivot := f.only()
	f.answer(pivot, wire.Retry)
	if s = f.get(s.ID); s.Status != saga.Stuck {
		f.t.Fatalf("the saga is %s", s.Status)
	}
	return s, pivot
}

// do fails the test if a verb does.
func (f *fixture) do(s coordinator.Saga, err error) coordinator.Saga {
	f.t.Helper()
	if err != nil {
		f.t.Fatal(err)
	}
	return s
}

// wantSaid checks that history says who asked for what, and why.
func (f *fixture) wantSaid(id uuid.UUID, kind saga.EntryType) {
	f.t.Helper()
	events, _, err := f.c.History(f.t.Context(), id, 0, 1000)
	if err != nil {
		f.t.Fatal(err)
	}
	if !slices.ContainsFunc(events, func(e coordinator.HistoryEvent) bool {
		return e.Type == string(kind) && e.Actor == ada.Actor && e.Reason == ada.Reason
	}) {
		f.t.Errorf("history does not say who asked for %s, and why: %+v", kind, events)
	}
}

// wantEnd checks how listeners were told of the end.
func (f *fixture) wantEnd(kind string) {
	f.t.Helper()
	if events := f.events(); len(events) == 0 || !strings.HasSuffix(events[len(events)-1].Subject, "."+kind) {
		f.t.Errorf("listeners were told %v, want %s last", events, kind)
	}
}

// awaitNoTimers waits until every timer that is due has been dealt with.
func (f *fixture) awaitNoTimers() {
	f.t.Helper()
	testkit.Eventually(f.t, "no timer is due", 30*time.Second, func() (bool, string) {
		return f.count(`SELECT count(*) FROM saga_timer WHERE due_at <= $1`, f.clock.Now()) == 0, ""
	})
}

func TestRetryNeedNotWaitForTheBackoff(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	s := f.start()
	first := f.only()
	f.answer(first, wire.Retry)
	f.do(f.c.Retry(t.Context(), s.ID, ada, "", nil))
	again := f.only()
	if again.EffectID != first.EffectID || again.Attempt != 2 {
		t.Errorf("after %+v came %+v", first, again)
	}
	f.wantSaid(s.ID, saga.RetryAsked)
	// The timer of the backoff finds nothing to do.
	f.published()
	f.clock.advance(2 * time.Second)
	f.awaitNoTimers()
	if n := len(f.commands()); n != 0 {
		t.Errorf("the backoff's timer sent %d commands more", n)
	}
	f.verifyHistory()
}

func TestRetryOfAStuckSagaGoesOn(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	s, pivot := f.stick()
	f.do(f.c.Retry(t.Context(), s.ID, ada, "commit", nil))
	again := f.only()
	if again.EffectID != pivot.EffectID || again.Attempt != 2 {
		t.Errorf("the retry is %+v", again)
	}
	f.answer(again, wire.Succeeded)
	if got := f.get(s.ID); got.Status != saga.Completed {
		t.Errorf("the saga is %s", got.Status)
	}
	f.wantEnd("completed")
	f.verifyHistory()
}

func TestResolveGoesOnFromAnOperatorsWord(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	s, _ := f.stick()
	got := f.do(f.c.Resolve(t.Context(), s.ID, ada, coordinator.Resolution{Step: "commit", Phase: saga.Action, Outcome: saga.ResolveFailed}))
	if got.Status != saga.Compensating || got.Error == nil || got.Error.Code != "resolved-failed" {
		t.Errorf("resolved as failed: %s, %+v", got.Status, got.Error)
	}
	for range 2 {
		f.answer(f.only(), wire.Succeeded)
	}
	if got := f.get(s.ID); got.Status != saga.Compensated {
		t.Errorf("the saga is %s", got.Status)
	}
	f.wantSaid(s.ID, saga.StepResolved)
	f.verifyHistory()
}

// A saga that has ended has no timer any more. If a reply contradicts an
// operator it is brought back, and what an operator then asks for is timed.
func TestAContradictedSagaComesBackFromItsEnd(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	s, pivot := f.stick()
	f.do(f.c.Resolve(t.Context(), s.ID, ada, coordinator.Resolution{Step: "commit", Phase: saga.Action, Outcome: saga.ResolveFailed}))
	refund := f.only()
	f.answer(refund, wire.Succeeded)
	release := f.only()
	f.do(f.c.Abandon(t.Context(), s.ID, ada)) // the last compensation is left in flight
	f.published()
	f.clock.advance(time.Hour)
	f.awaitNoTimers()

	f.answer(pivot, wire.Succeeded)
	got := f.get(s.ID)
	if got.Status != saga.Stuck || got.Steps[2].Error == nil || got.Steps[2].Error.Code != "contradicted" {
		t.Fatalf("contradicted: %s, %+v", got.Status, got.Steps[2])
	}
	f.wantEnd("stuck")
	f.do(f.c.Resolve(t.Context(), s.ID, ada, coordinator.Resolution{Step: "commit", Phase: saga.Action, Outcome: saga.ResolveFailed}))
	f.do(f.c.Retry(t.Context(), s.ID, ada, "reserve", nil))
	if again := f.only(); again.EffectID != release.EffectID {
		t.Fatalf("retried %+v", again)
	}
	f.published()
	again := f.await(11 * time.Second) // nobody answers: the timeout fires
	f.answer(again, wire.Succeeded)
	if got := f.get(s.ID); got.Status != saga.Compensated {
		t.Errorf("the saga is %s", got.Status)
	}
	f.verifyHistory()
}

func TestAbandonEndsASagaForEverybody(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	s := f.startOf("terminal")
	inFlight := f.only()
	for range 2 { // asking again is no error and changes nothing
		if got := f.do(f.c.Abandon(t.Context(), s.ID, ada)); got.Status != saga.Abandoned || got.Version != 2 || got.EndedAt == nil {
			t.Fatalf("abandoned: %s, version %d", got.Status, got.Version)
		}
	}
	f.answer(inFlight, wire.Succeeded)
	if got := f.get(s.ID); got.Version != 2 || got.StaleReplies != 1 || len(f.commands()) != 0 {
		t.Errorf("a reply to an abandoned saga: version %d, %d stale", got.Version, got.StaleReplies)
	}
	f.wantSaid(s.ID, saga.EndedAbandoned)
	f.wantEnd("abandoned")
	var told struct{ Actor, Reason string }
	events := f.events()
	if err := json.Unmarshal(events[0].Payload, &told); err != nil || told.Actor != ada.Actor || told.Reason != ada.Reason {
		t.Errorf("listeners are told %s", events[0].Payload)
	}
	f.verifyHistory()
}

// P2: while a saga is paused its timers find nothing to do, and go; when it is
// resumed, what it waits for is timed again.
func TestAPausedSagaWaitsForNoTime(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	s := f.start()
	first := f.only()
	f.published()
	got := f.do(f.c.Pause(t.Context(), s.ID, ada))
	if got.PausedAt == nil || got.Status != saga.Running {
		t.Fatalf("paused: %+v", got)
	}
	f.clock.advance(2 * time.Hour) // beyond the step's timeout and the saga's deadline
	f.awaitNoTimers()
	if n := f.count(`SELECT count(*) FROM saga_timer`); n != 0 {
		t.Errorf("%d timers are left", n)
	}
	if got := f.get(s.ID); got.Version != 2 || len(f.commands()) != 0 {
		t.Fatalf("while it was paused the saga moved to version %d", got.Version)
	}
	got = f.do(f.c.Resume(t.Context(), s.ID, ada))
	if got.PausedAt != nil || len(f.commands()) != 0 {
		t.Fatalf("resumed: %+v", got)
	}
	again := f.await(11 * time.Second)
	if again.EffectID != first.EffectID || again.Attempt != 2 {
		t.Errorf("after the pause came %+v", again)
	}
	f.answer(again, wire.Succeeded)
	f.answer(f.only(), wire.Succeeded)
	f.answer(f.only(), wire.Succeeded)
	if got := f.get(s.ID); got.Status != saga.Completed || got.Overdue {
		t.Errorf("the saga is %s, overdue %v", got.Status, got.Overdue)
	}
	f.wantSaid(s.ID, saga.Paused)
	f.wantSaid(s.ID, saga.Resumed)
	f.verifyHistory()
}

// on_deadline: suspend tells whoever listens for what needs a person.
func TestADeadlineThatSuspendsIsTold(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	def, err := saga.Parse([]byte(strings.Replace(threeSteps, "name: order\ndeadline: 1h", "name: slow\ndeadline: 5s\non_deadline: suspend", 1)))
	if err != nil {
		t.Fatal(err)
	}
	if err := f.c.Register(t.Context(), def); err != nil {
		t.Fatal(err)
	}
	s, err := f.c.Start(t.Context(), coordinator.StartRequest{Definition: "slow", Input: json.RawMessage(`{}`)})
	if err != nil {
		t.Fatal(err)
	}
	f.published()
	f.clock.advance(6 * time.Second)
	testkit.Eventually(t, "the saga is suspended", 30*time.Second, func() (bool, string) {
		got := f.get(s.Saga.ID)
		return got.PausedAt != nil && got.Overdue && got.Status == saga.Running, ""
	})
	f.wantEnd("suspended")
	f.do(f.c.Resume(t.Context(), s.Saga.ID, ada))
	f.verifyHistory()
}

func TestTheEndOfAnAbandonedSagaIsToldWithWhatWasWrong(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	s, _ := f.stick()
	f.do(f.c.Abandon(t.Context(), s.ID, ada))
	events := f.events()
	if last := string(events[len(events)-1].Payload); !strings.Contains(last, `"error":{"code":"retry"`) {
		t.Errorf("listeners are told %s", last)
	}
}

func TestVerbsAreRefusedWithWhatIsAllowed(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	s := f.start()
	for code, err := range map[string]error{
		saga.IllegalNothingToRetry: second(f.c.Retry(t.Context(), s.ID, ada, "", nil)),
		saga.IllegalNotStuck:       second(f.c.Resolve(t.Context(), s.ID, ada, coordinator.Resolution{Step: "charge", Phase: saga.Action, Outcome: saga.ResolveSkipped})),
	} {
		var illegal *coordinator.IllegalError
		if !errors.As(err, &illegal) || illegal.Code != code || !slices.Equal(illegal.Allowed, []string{"cancel", "pause", "abandon"}) {
			t.Errorf("want %s: %v, %+v", code, err, illegal)
		}
	}
	for name, err := range map[string]error{
		"retry":   second(f.c.Retry(t.Context(), s.ID, ada, "nobody", nil)),
		"resolve": second(f.c.Resolve(t.Context(), s.ID, ada, coordinator.Resolution{Step: "nobody", Phase: saga.Action, Outcome: saga.ResolveSkipped})),
		"abandon": second(f.c.Abandon(t.Context(), uuid.New(), ada)),
	} {
		if !errors.Is(err, coordinator.ErrNotFound) {
			t.Errorf("%s of what is not there: %v", name, err)
		}
	}
	stale := coordinator.Operation{IfVersion: 9}
	for name, err := range map[string]error{
		"retry":   second(f.c.Retry(t.Context(), s.ID, stale, "", nil)),
		"resolve": second(f.c.Resolve(t.Context(), s.ID, stale, coordinator.Resolution{Step: "charge"})),
		"abandon": second(f.c.Abandon(t.Context(), s.ID, stale)),
	} {
		if !errors.Is(err, coordinator.ErrPrecondition) {
			t.Errorf("%s of another version: %v", name, err)
		}
	}
	if got := f.get(s.ID); got.Version != 1 {
		t.Errorf("refused requests made version %d", got.Version)
	}
}

func second(_ coordinator.Saga, err error) error { return err }

// A saga that was undone is started again once, however often that is asked
// for at the same time.
func TestARestartIsOneNewSaga(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	s, err := f.c.Start(t.Context(), coordinator.StartRequest{
		Definition: "order", Input: json.RawMessage(`{"n": 1}`), Order: &coordinator.Order{CustomerID: "c-1", Currency: "EUR", Total: "12.50"},
	})
	if err != nil {
		t.Fatal(err)
	}
	old := s.Saga.ID
	_, err = f.c.Restart(t.Context(), old, ada, coordinator.RestartRequest{})
	var illegal *coordinator.IllegalError
	if !errors.As(err, &illegal) || illegal.Code != saga.IllegalNotUndone || !slices.Contains(illegal.Allowed, "cancel") {
		t.Fatalf("a running saga: %v", err)
	}
	f.answer(f.only(), wire.Failed)
	if _, err := f.c.Restart(t.Context(), old, coordinator.Operation{IfVersion: 9}, coordinator.RestartRequest{}); !errors.Is(err, coordinator.ErrPrecondition) {
		t.Errorf("another version: %v", err)
	}
	if got := f.get(old); !slices.Equal(got.Actions, []string{"restart"}) {
		t.Errorf("allowed are %v", got.Actions)
	}
	var wg sync.WaitGroup
	made := make([]coordinator.Started, 10)
	for i := range made {
		wg.Go(func() {
			var err error
			if made[i], err = f.c.Restart(t.Context(), old, ada, coordinator.RestartRequest{}); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	fresh := 0
	for _, m := range made {
		if m.Saga.ID != made[0].Saga.ID || m.Saga.ID == old {
			t.Errorf("restarted as %s and as %s", made[0].Saga.ID, m.Saga.ID)
		}
		if !m.Replayed {
			fresh++
		}
	}
	if fresh != 1 {
		t.Errorf("%d of the answers are of the first restart", fresh)
	}
	before, after := f.get(old), f.get(made[0].Saga.ID)
	if before.RestartedAs != after.ID || after.RestartOf != old.String() || len(before.Actions) != 0 || string(after.Input) != `{"n": 1}` {
		t.Errorf("old %+v\nnew %+v", before, after)
	}
	if cmd := f.only(); cmd.EffectID.Saga != after.ID.String() {
		t.Errorf("the new saga sends %+v", cmd.EffectID)
	}
	f.wantSaid(after.ID, saga.Started)
	if n := f.count(`SELECT count(*) FROM orders WHERE customer_id = 'c-1' AND total = 12.50 AND id IN ($1, $2)`, old, after.ID); n != 2 {
		t.Errorf("%d orders, want the old one and one like it", n)
	}
	if _, err := f.c.Restart(t.Context(), uuid.New(), ada, coordinator.RestartRequest{}); !errors.Is(err, coordinator.ErrNotFound) {
		t.Errorf("no such saga: %v", err)
	}
	f.verifyHistory()
}

package coordinator_test

import (
	"context"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/skald-saga/skald/internal/coordinator"
	"github.com/skald-saga/skald/internal/saga"
	"github.com/skald-saga/skald/internal/wire"
)

// A walk through a list meets every saga that was there when it began exactly
// once, although new ones come in.
func TestAListCanBeWalkedWhileSagasStart(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	want := map[uuid.UUID]bool{}
	for range 25 {
		want[f.start().ID] = true
	}
	met := map[uuid.UUID]int{}
	var before uuid.UUID
	for more := true; more; {
		var page []coordinator.Saga
		var err error
		page, more, err = f.c.List(t.Context(), coordinator.SagaFilter{Before: before, Limit: 7})
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range page {
			met[s.ID]++
			before = s.ID
		}
		f.start()
	}
	if len(met) != len(want) {
		t.Errorf("met %d sagas, want %d", len(met), len(want))
	}
	for id, n := range met {
		if n != 1 || !want[id] {
			t.Errorf("met saga %s %d times; there from the start: %t", id, n, want[id])
		}
	}
}

func TestAListCanBeFiltered(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.start()
	f.answer(f.only(), wire.Failed)
	f.start()
	for name, c := range map[string]struct {
		filter coordinator.SagaFilter
		want   int
	}{
		"all":               {coordinator.SagaFilter{}, 2},
		"by status":         {coordinator.SagaFilter{Statuses: []saga.Status{saga.Compensated}}, 1},
		"by statuses":       {coordinator.SagaFilter{Statuses: []saga.Status{saga.Compensated, saga.Running}}, 2},
		"by definition":     {coordinator.SagaFilter{Definition: "order"}, 2},
		"of nothing":        {coordinator.SagaFilter{Definition: "nothing"}, 0},
		"of a lacked state": {coordinator.SagaFilter{Statuses: []saga.Status{saga.Stuck}}, 0},
	} {
		c.filter.Limit = 10
		got, more, err := f.c.List(t.Context(), c.filter)
		if err != nil || more || len(got) != c.want {
			t.Errorf("%s: %d sagas, more %t, %v; want %d", name, len(got), more, err, c.want)
		}
	}
}

// Who waits for a saga is told when another server ends it.
func TestAwaitSeesWhatOtherServersDo(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	s := f.start()
	other := f.coordinator(nil)
	ended := make(chan coordinator.Saga, 1)
	go func() {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		got, err := other.Await(ctx, s, coordinator.Ended)
		if err != nil {
			t.Error(err)
		}
		ended <- got
	}()
	f.answer(f.only(), wire.Failed)
	if got := <-ended; got.Status != saga.Compensated {
		t.Errorf("told that the saga is %s", got.Status)
	}
}

// Who begins to wait with an old version learns at once of what has happened
// since, although nothing happens any more. The coordinator does not run, so
// nothing is found by polling.
func TestAwaitDoesNotMissWhatHasJustHappened(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	began := f.start()
	c := coordinator.New(coordinator.Config{Pool: f.pool, Now: f.clock.Now})
	if err := c.HandleReplies(t.Context(), []coordinator.Delivery{reply(f.only(), wire.Failed)}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	got, err := c.Await(ctx, began, coordinator.Ended)
	if err != nil || got.Status != saga.Compensated || ctx.Err() != nil {
		t.Errorf("%s, %v; waited to the end: %v", got.Status, err, ctx.Err())
	}
}

func TestAwaitAnswersWhenItsTimeIsUp(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	s := f.start()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	got, err := f.c.Await(ctx, s, coordinator.Ended)
	if err != nil || got.Status != saga.Running {
		t.Errorf("%s, %v", got.Status, err)
	}
}

// History comes in pages, numbered without gaps, whatever the page size.
func TestHistoryIsPaged(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	s := f.start()
	for range 3 {
		f.answer(f.only(), wire.Succeeded)
	}
	all, more, err := f.c.History(t.Context(), s.ID, 0, 100)
	if err != nil || more || len(all) < 7 {
		t.Fatalf("%d events, more %t, %v", len(all), more, err)
	}
	var paged []coordinator.HistoryEvent
	for after, more := 0, true; more; after = paged[len(paged)-1].Seq {
		var page []coordinator.HistoryEvent
		if page, more, err = f.c.History(t.Context(), s.ID, after, 3); err != nil {
			t.Fatal(err)
		}
		paged = append(paged, page...)
	}
	if len(paged) != len(all) {
		t.Fatalf("%d events in pages, %d at once", len(paged), len(all))
	}
	for i, e := range paged {
		if e.Seq != i+1 || e.Type != all[i].Type {
			t.Errorf("event %d is number %d, %s", i+1, e.Seq, e.Type)
		}
	}
}

// The same content is the same version; other content is the next, and sagas
// that run stay on theirs.
func TestDefinitionsAreVersioned(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	s := f.start()
	next, err := saga.Parse([]byte("name: order\nsteps:\n  - {name: only, participant: inventory, action: reserve, compensation: release}\n"))
	if err != nil {
		t.Fatal(err)
	}
	if err := f.c.Register(t.Context(), next); err != nil {
		t.Fatal(err)
	}
	if newer := f.start(); newer.DefinitionVersion != 2 || len(newer.Steps) != 1 {
		t.Errorf("a new saga has version %d", newer.DefinitionVersion)
	}
	f.coordinator(nil) // another server, whose files have the first content again
	if n := f.count(`SELECT count(*) FROM definition`); n != 2 {
		t.Errorf("%d versions, want 2", n)
	}
	for _, cmd := range f.commands()[:1] {
		f.answer(cmd, wire.Succeeded)
	}
	if got := f.get(s.ID); got.DefinitionVersion != 1 || len(got.Steps) != 3 || got.Steps[1].Status != saga.StepRunning {
		t.Errorf("the saga that ran: %+v", got)
	}
	f.verifyHistory()
}

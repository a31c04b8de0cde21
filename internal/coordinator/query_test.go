package coordinator_test

import (
	"context"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
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
	for more := true; more; more = before != uuid.Nil {
		page, next, err := f.c.List(t.Context(), coordinator.SagaFilter{Before: before, Limit: 7})
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range page {
			met[s.ID]++
		}
		before = next
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
	def, err := coordinator.ParseDefinition([]byte(strings.Replace(threeSteps, "deadline:", "search: [input.customer.id, input.nights]\ndeadline:", 1)))
	if err != nil {
		t.Fatal(err)
	}
	f.clock.advance(time.Since(f.clock.Now())) // ids hold the real time
	undone := f.start()
	f.answer(f.only(), wire.Failed)
	begun := f.clock.Now()
	f.clock.advance(30 * time.Second)
	if err := f.c.Register(t.Context(), def); err != nil {
		t.Fatal(err)
	}
	started, err := f.c.Start(t.Context(), coordinator.StartRequest{
		Definition: "order", Input: json.RawMessage(`{"customer": {"id": "c-1"}, "nights": 7, "x": 1}`), Name: "trip-1", Labels: map[string]string{"team": "a", "tier": "1"},
	})
	if err != nil {
		t.Fatal(err)
	}
	labelled := started.Saga
	plain := f.start()
	f.answer(f.commands()[1], wire.Succeeded)
	paused := f.start()
	if _, err := f.c.Pause(t.Context(), paused.ID, coordinator.Operation{}); err != nil {
		t.Fatal(err)
	}
	if _, err := f.pool.Exec(t.Context(), `WITH timer AS (DELETE FROM saga_timer WHERE saga_id = $1) UPDATE saga SET wake_at = NULL WHERE id = $1`, paused.ID); err != nil {
		t.Fatal(err)
	}
	code := undone.ID
	failure := f.get(code).Error.Code
	at := f.clock.Now()
	type filter = coordinator.SagaFilter
	for name, c := range map[string]struct {
		filter filter
		want   []uuid.UUID
	}{
		"all":                           {filter{}, []uuid.UUID{paused.ID, plain.ID, labelled.ID, undone.ID}},
		"by status":                     {filter{Statuses: []saga.Status{saga.Compensated}}, []uuid.UUID{undone.ID}},
		"by statuses":                   {filter{Statuses: []saga.Status{saga.Compensated, saga.Running}}, []uuid.UUID{paused.ID, plain.ID, labelled.ID, undone.ID}},
		"those that run":                {filter{Statuses: []saga.Status{saga.Running}}, []uuid.UUID{paused.ID, plain.ID, labelled.ID}},
		"by definition":                 {filter{Definition: "order"}, []uuid.UUID{paused.ID, plain.ID, labelled.ID, undone.ID}},
		"by version":                    {filter{Definition: "order", Version: 1}, []uuid.UUID{undone.ID}},
		"of nothing":                    {filter{Definition: "nothing"}, nil},
		"of a lacked state":             {filter{Statuses: []saga.Status{saga.Stuck}}, nil},
		"by key":                        {filter{Found: []saga.Attribute{coordinator.ByKey("trip-1")}}, []uuid.UUID{labelled.ID}},
		"by another key":                {filter{Found: []saga.Attribute{coordinator.ByKey("trip-2")}}, nil},
		"by label":                      {filter{Found: []saga.Attribute{coordinator.ByLabel("team", "a")}}, []uuid.UUID{labelled.ID}},
		"by labels":                     {filter{Found: []saga.Attribute{coordinator.ByLabel("team", "a"), coordinator.ByLabel("tier", "1")}}, []uuid.UUID{labelled.ID}},
		"by labels of which one is not": {filter{Found: []saga.Attribute{coordinator.ByLabel("team", "a"), coordinator.ByLabel("tier", "2")}}, nil},
		"by what the input holds":       {filter{Found: []saga.Attribute{coordinator.ByInput("customer.id", "c-1")}}, []uuid.UUID{labelled.ID}},
		"by a number of the input":      {filter{Found: []saga.Attribute{coordinator.ByInput("nights", "7")}}, []uuid.UUID{labelled.ID}},
		"by what is not searched":       {filter{Found: []saga.Attribute{coordinator.ByInput("x", "1")}}, nil},
		"by an attribute and a status":  {filter{Found: []saga.Attribute{coordinator.ByKey("trip-1")}, Statuses: []saga.Status{saga.Completed}}, nil},
		"by step":                       {filter{Step: "reserve"}, []uuid.UUID{paused.ID, labelled.ID}},
		"by a later step":               {filter{Step: "charge"}, []uuid.UUID{plain.ID}},
		"by a step that nobody has":     {filter{Step: "nothing"}, nil},
		"by error code":                 {filter{ErrorCode: failure}, []uuid.UUID{undone.ID}},
		"by another error code":         {filter{ErrorCode: "another"}, nil},
		"created since":                 {filter{Created: coordinator.Span{From: at}}, []uuid.UUID{paused.ID, plain.ID, labelled.ID}},
		"created until":                 {filter{Created: coordinator.Span{To: at}}, []uuid.UUID{undone.ID}},
		"changed since":                 {filter{Updated: coordinator.Span{From: begun.Add(time.Second)}}, []uuid.UUID{paused.ID, plain.ID, labelled.ID}},
		"changed until":                 {filter{Updated: coordinator.Span{To: at}}, []uuid.UUID{undone.ID}},
	} {
		c.filter.Limit = 10
		list, next, err := f.c.List(t.Context(), c.filter)
		if err != nil || next != uuid.Nil {
			t.Errorf("%s: %v, next %s", name, err, next)
		}
		var got []uuid.UUID
		for _, s := range list {
			got = append(got, s.ID)
		}
		if diff := cmp.Diff(c.want, got); diff != "" {
			t.Errorf("%s: -want +got\n%s", name, diff)
		}
	}
	if got := f.get(labelled.ID); got.Key != "trip-1" || got.Labels["tier"] != "1" {
		t.Errorf("it is shown with the key %q and the labels %v", got.Key, got.Labels)
	}
	if n := f.count(`SELECT count(*) FROM saga_attribute WHERE saga_id <> $1`, labelled.ID); n != 0 {
		t.Errorf("%d rows for sagas that are found by nothing", n)
	}
	f.verifyHistory()
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

package coordinator_test

import (
	"context"
	"encoding/json"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/skald-saga/skald/internal/coordinator"
	"github.com/skald-saga/skald/internal/saga"
	"github.com/skald-saga/skald/internal/testkit"
	"github.com/skald-saga/skald/internal/wire"
)

// P10: a saga whose definition this program cannot read, because a newer one
// wrote it, holds up no other: replies, timers and lists go on.
func TestASagaOfANewerProgramHarmsNobodyElse(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	strange := f.start()
	strangeCmd := f.only()
	good := f.start()
	goodCmd := f.only()
	if _, err := f.pool.Exec(t.Context(), `
		WITH d AS (INSERT INTO definition (name, version, digest, source, created_at)
			VALUES ('order', 9, 'x', '{"name": "order", "from_the_future": true}', now()) RETURNING id)
		UPDATE saga SET definition_id = d.id FROM d WHERE saga.id = $1`, strange.ID); err != nil {
		t.Fatal(err)
	}
	f.c = f.coordinator(nil) // it has not seen the saga before
	f.handle(reply(strangeCmd, wire.Succeeded), reply(goodCmd, wire.Succeeded))
	if got := f.get(good.ID); got.Steps[0].Status != saga.StepSucceeded {
		t.Errorf("the good saga's step is %s", got.Steps[0].Status)
	}
	f.only()
	f.published()
	if again := f.await(100 * time.Millisecond); again.Saga != good.ID.String() || again.Attempt != 2 {
		t.Errorf("after the timeout came %+v", again)
	}
	list, _, err := f.c.List(t.Context(), coordinator.SagaFilter{Limit: 10})
	if err != nil || len(list) != 2 {
		t.Fatalf("a list of %d sagas, %v", len(list), err)
	}
	if got := f.get(strange.ID); got.Status != saga.Running || got.DefinitionVersion != 9 || len(got.Steps) != 0 || len(got.Actions) != 0 {
		t.Errorf("the strange saga: %+v", got)
	}
	if n := f.count(`SELECT count(*) FROM dead_letter`); n != 1 {
		t.Errorf("%d dead letters, want the strange saga's reply", n)
	}
}

// P10: what one timer leads to cannot be stored; the others fire.
func TestATimerThatCannotBeDealtWithDelaysNoOther(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	var bad coordinator.Saga
	for i := range 5 {
		if s := f.start(); i == 2 {
			bad = s
		}
	}
	f.published()
	if _, err := f.pool.Exec(t.Context(), fmt.Sprintf(`
		CREATE FUNCTION picky() RETURNS trigger LANGUAGE plpgsql AS
		$$ BEGIN IF NEW.saga_id = '%s' THEN RAISE EXCEPTION 'bad value' USING ERRCODE = '22000'; END IF; RETURN NEW; END $$;
		CREATE TRIGGER picky BEFORE INSERT ON saga_history FOR EACH ROW EXECUTE FUNCTION picky()`, bad.ID)); err != nil {
		t.Fatal(err)
	}
	testkit.Eventually(t, "the others are asked again", 30*time.Second, func() (bool, string) {
		f.clock.advance(100 * time.Millisecond)
		n := f.count(`SELECT count(DISTINCT key) FROM outbox WHERE headers->>'ce-attempt' = '2'`)
		return n == 4, fmt.Sprint(n)
	})
	if got := f.get(bad.ID); got.Version != 1 || f.count(`SELECT count(*) FROM saga_timer WHERE saga_id = $1`, bad.ID) == 0 {
		t.Errorf("the bad one: version %d", got.Version)
	}
}

// P10, P11: readers who are slow take at most half of the connections.
func TestSlowReadersDoNotHoldUpReplies(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.start()
	cmd := f.only()
	narrow := f.pool.Config()
	narrow.MaxConns = 4
	pool, err := pgxpool.NewWithConfig(t.Context(), narrow)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	c := f.coordinator(func(cfg *coordinator.Config) { cfg.Pool = pool })
	blocker, err := f.pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = blocker.Rollback(context.Background()) }()
	if _, err := blocker.Exec(t.Context(), `LOCK TABLE saga_stale_reply IN ACCESS EXCLUSIVE MODE`); err != nil { // lists read it, replies do not
		t.Fatal(err)
	}
	ctx, leave := context.WithCancel(t.Context())
	var readers sync.WaitGroup
	for range 16 {
		readers.Go(func() { _, _, _ = c.List(ctx, coordinator.SagaFilter{Limit: 1}) })
	}
	f.awaitLockWaits(2)
	handleCtx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if err := c.HandleReplies(handleCtx, []coordinator.Delivery{reply(cmd, wire.Succeeded)}); err != nil {
		t.Errorf("a reply while lists are slow: %v", err)
	}
	if _, err := c.Start(handleCtx, coordinator.StartRequest{Definition: "order", Input: json.RawMessage(`{}`)}); err != nil {
		t.Errorf("a start while lists are slow: %v", err)
	}
	leave()
	readers.Wait()
}

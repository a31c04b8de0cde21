package coordinator_test

import (
	"encoding/json"
	"fmt"
	"reflect"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/skald-saga/skald/internal/coordinator"
	"github.com/skald-saga/skald/internal/saga"
	"github.com/skald-saga/skald/internal/wire"
)

// P6: replies that come twice, late or out of the blue are recorded with their
// reasons and change nothing.
func TestStaleRepliesChangeNothing(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	s := f.start()
	reserve := f.only()
	f.answer(reserve, wire.Succeeded)
	charge := f.only()
	before := f.get(s.ID)

	other := charge
	other.EffectID.Generation = 7
	undo := reserve
	undo.EffectID.Phase = wire.Compensation
	oldAttempt := charge
	oldAttempt.Attempt = 9
	strange := charge
	strange.EffectID.Step = "no-such-step"
	for range 8 {
		f.handle(reply(reserve, wire.Succeeded), reply(reserve, wire.Failed), reply(other, wire.Succeeded),
			reply(undo, wire.Succeeded), reply(oldAttempt, wire.Retry))
	}
	f.handle(reply(strange, wire.Succeeded))

	after := f.get(s.ID)
	stale := after.StaleReplies
	after.StaleReplies = before.StaleReplies
	if !reflect.DeepEqual(before, after) {
		t.Errorf("stale replies changed\n%+v to\n%+v", before, after)
	}
	if stale != 41 || len(f.commands()) != 0 {
		t.Errorf("%d stale replies are counted, want 41", stale)
	}
	if n := f.count(`SELECT jsonb_array_length(replies) FROM saga_stale_reply WHERE replies->0->>'reason' <> ''`); n != 20 {
		t.Errorf("%d stale replies are kept with their reasons, want 20", n)
	}
	f.answer(charge, wire.Succeeded)
	f.answer(f.only(), wire.Succeeded)
	if got := f.get(s.ID); got.Status != saga.Completed {
		t.Errorf("the saga is %s", got.Status)
	}
	f.verifyHistory()
}

// What cannot be read, or answers nothing, is kept and does not hold up what
// came with it (P10).
func TestUnreadableRepliesBecomeDeadLetters(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	s := f.start()
	cmd := f.only()
	stranger := cmd
	stranger.EffectID.Saga = "0192f0c1-2345-7abc-8def-0123456789ab"
	if _, err := f.pool.Exec(t.Context(), `
		CREATE FUNCTION picky() RETURNS trigger LANGUAGE plpgsql AS
		$$ BEGIN IF NEW.entries::text LIKE '%poison%' THEN RAISE EXCEPTION 'bad value' USING ERRCODE = '22000'; END IF; RETURN NEW; END $$;
		CREATE TRIGGER picky BEFORE INSERT ON saga_history FOR EACH ROW EXECUTE FUNCTION picky()`); err != nil {
		t.Fatal(err)
	}
	unstorable := reply(cmd, wire.Succeeded)
	unstorable.Reply.Body = json.RawMessage(`"poison"`)
	f.handle(
		coordinator.Delivery{Err: fmt.Errorf("body: not JSON"), Subject: "skald.reply.0\x00\xff", Headers: map[string][]string{"x": {"\x00"}}, Body: []byte{0, 255}},
		reply(stranger, wire.Succeeded),
		unstorable,
		reply(cmd, wire.Succeeded),
	)
	if got := f.get(s.ID); got.Steps[0].Status != saga.StepSucceeded || got.Version != 2 {
		t.Errorf("the good reply did not count: %+v", got.Steps[0])
	}
	rows, err := f.pool.Query(t.Context(), `SELECT reason FROM dead_letter ORDER BY id`)
	if err != nil {
		t.Fatal(err)
	}
	reasons, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil || len(reasons) != 3 {
		t.Fatalf("dead letters %q, %v", reasons, err)
	}
}

// A reply delivered twice at once, to two servers, sends the next command once.
func TestHandlingLocksTheSaga(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	s := f.start()
	cmd := f.only()
	blocker, err := f.pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := blocker.Exec(t.Context(), `SELECT 1 FROM saga FOR UPDATE`); err != nil {
		t.Fatal(err)
	}
	errs := make(chan error, 2)
	for _, c := range []*coordinator.Coordinator{f.c, f.coordinator(nil)} {
		go func() { errs <- c.HandleReplies(t.Context(), []coordinator.Delivery{reply(cmd, wire.Succeeded)}) }()
	}
	f.awaitLockWaits(2)
	if err := blocker.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := <-errs; err != nil {
			t.Fatal(err)
		}
	}
	if n := len(f.commands()); n != 1 {
		t.Errorf("%d commands followed, want 1", n)
	}
	if got := f.get(s.ID); got.Version != 2 || got.StaleReplies != 1 {
		t.Errorf("version %d, %d stale replies", got.Version, got.StaleReplies)
	}
}

// P1: whatever part of a transition cannot be written, none is, and the reply
// counts when it is delivered again.
func TestATransitionIsWrittenCompletelyOrNotAtAll(t *testing.T) {
	t.Parallel()
	for _, broken := range []string{"saga", "saga_history", "outbox"} {
		t.Run(broken, func(t *testing.T) {
			t.Parallel()
			f := newFixture(t)
			s := f.start()
			cmd := f.only()
			before := f.get(s.ID)
			f.breakTable(broken)
			if err := f.c.HandleReplies(t.Context(), []coordinator.Delivery{reply(cmd, wire.Succeeded)}); err == nil {
				t.Fatal("the reply was handled")
			}
			if got := f.get(s.ID); !reflect.DeepEqual(before, got) || len(f.commands()) != 0 {
				t.Errorf("half a transition: %+v", got)
			}
			f.mendTable(broken)
			f.answer(cmd, wire.Succeeded)
			if got := f.get(s.ID); got.Version != 2 || len(f.commands()) != 1 {
				t.Errorf("after the mending: %+v", got)
			}
			f.verifyHistory()
		})
	}
}

// Replies of one batch are applied in their order, also when they are for the
// same saga, and its commands go out in that order.
func TestABatchAppliesRepliesInOrder(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	const n = 50
	for range n {
		f.start()
	}
	first := f.commands()
	if len(first) != n {
		t.Fatalf("%d commands for %d sagas", len(first), n)
	}
	var batch []coordinator.Delivery
	for _, cmd := range first {
		next := cmd
		next.EffectID.Step = "charge"
		batch = append(batch, reply(cmd, wire.Succeeded), reply(cmd, wire.Succeeded), reply(next, wire.Succeeded))
	}
	f.handle(batch...)
	if got := f.count(`SELECT count(*) FROM saga WHERE version = 3`); got != n {
		t.Errorf("%d sagas made two steps, want %d", got, n)
	}
	if got := f.count(`SELECT count(DISTINCT xid) FROM outbox WHERE seq > (SELECT max(seq) - $1 FROM outbox)`, 2*n); got != 1 {
		t.Errorf("%d transactions, want 1", got)
	}
	bySaga := map[string][]string{}
	for _, cmd := range f.commands() {
		bySaga[cmd.Saga] = append(bySaga[cmd.Saga], cmd.EffectID.Step)
	}
	for id, steps := range bySaga {
		if !reflect.DeepEqual(steps, []string{"charge", "commit"}) {
			t.Errorf("saga %s: commands %v", id, steps)
		}
	}
	f.verifyHistory()
}

// A command says all that the protocol promises (DESIGN 3).
func TestACommandCarriesItsHeaders(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	s := f.start()
	reserve := f.only()
	if reserve.EffectID.String() != s.ID.String()+"/reserve/action" || reserve.Attempt != 1 || reserve.ReplyTo != "skald.reply.0" ||
		!reserve.EffectTime.Equal(f.clock.Now()) || !reserve.NotAfter.Equal(f.clock.Now().Add(time.Hour)) {
		t.Errorf("command %+v", reserve)
	}
	if !json.Valid(reserve.Payload) {
		t.Errorf("payload %s", reserve.Payload)
	}
	f.answer(reserve, wire.Succeeded)
	f.answer(f.only(), wire.Failed)
	undo := f.only()
	if undo.EffectID.String() != s.ID.String()+"/reserve/compensation" || undo.ActionOutcome != wire.Succeeded ||
		undo.Compensates.String() != s.ID.String()+"/reserve/action" || !undo.NotAfter.IsZero() {
		t.Errorf("compensation %+v", undo)
	}
}

package participant_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/skald-saga/skald/internal/wire"
	"github.com/skald-saga/skald/participant"
)

// P5: a duplicate is answered from the inbox. Each message has a reply of its
// own id, or JetStream would drop it.
func TestADuplicateGetsTheStoredReplyAndRunsNothing(t *testing.T) {
	t.Parallel()
	w := open(t)
	n := w.works(participant.Config{})
	s := w.step()

	first := w.send(s.action())
	second := w.send(s.action(func(c *wire.Command) { c.Attempt = 2 }))

	want(t, "first reply", text(first), "succeeded 1")
	want(t, "second reply", text(second), "succeeded 1")
	want(t, "attempt echoed", second.Attempt, 2)
	want(t, "effect id echoed", second.EffectID, s.id(wire.Action))
	want(t, "calls", n.do.Load(), 1)
	want(t, "effects", s.rows(), "1/0")
	if first.MsgID == second.MsgID {
		t.Errorf("both replies have the message id %s", first.MsgID)
	}
}

// P5: a later generation is another effect.
func TestAnotherGenerationIsAnotherEffect(t *testing.T) {
	t.Parallel()
	w := open(t)
	n := w.works(participant.Config{})
	s := w.step()
	w.send(s.action())
	r := w.send(s.action(func(c *wire.Command) { c.EffectID.Generation = 2 }))
	want(t, "reply", text(r), "succeeded 2")
	want(t, "calls", n.do.Load(), 2)
}

// P5: the same effect twice at the same time happens once; who comes second is
// told to wait.
func TestADuplicateDuringTheWorkIsAnsweredInProgress(t *testing.T) {
	t.Parallel()
	w := open(t)
	entered, leave := make(chan bool, 8), make(chan bool)
	n := &calls{fail: func(string) error { entered <- true; <-leave; return nil }}
	w.run(participant.Config{}, n.register)
	s := w.step()

	c := s.action()
	first := w.post(c)
	<-entered
	release := w.opener(leave)
	want(t, "reply to the duplicate", text(w.send(s.action())), "in_progress")
	release()
	want(t, "reply to the first", text(w.await(c, first)), "succeeded 1")
	want(t, "effects", s.rows(), "1/0")
}

// P5: the same while another process has the effect: its transaction is waited
// for, and then what it left decides.
func TestADuplicateWaitsForTheOtherProcess(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name      string
		end       func(context.Context, pgx.Tx) error
		reply     string
		effects   string
		otherRows int
	}{
		{"which commits: its reply is the reply", func(ctx context.Context, tx pgx.Tx) error { return tx.Commit(ctx) }, `succeeded "theirs"`, "0/0", 1},
		{"which rolls back: the effect is ours", func(ctx context.Context, tx pgx.Tx) error { return tx.Rollback(ctx) }, `succeeded 1`, "1/0", 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			w := open(t)
			w.works(participant.Config{})
			s := w.step()
			tx := w.otherProcess(s)

			c := s.action()
			reply := w.post(c)
			w.awaitLockWait(1)
			if err := tc.end(t.Context(), tx); err != nil {
				t.Fatal(err)
			}
			want(t, "reply", text(w.await(c, reply)), tc.reply)
			want(t, "effects", s.rows(), tc.effects)
		})
	}
}

// otherProcess is a transaction that is about to answer "theirs".
func (w *world) otherProcess(s step) pgx.Tx {
	w.t.Helper()
	tx, err := w.pool.Begin(w.t.Context())
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { _ = tx.Rollback(context.Background()) })
	const q = `INSERT INTO skald_inbox (service, effect_id, status, reply) VALUES ($1, $2, 'succeeded', '{"outcome": "succeeded", "body": "theirs"}')`
	if _, err := tx.Exec(w.t.Context(), q, service, s.id(wire.Action).String()); err != nil {
		w.t.Fatal(err)
	}
	return tx
}

// A transaction that takes long is not waited for: the saga is told that work
// goes on, and the handler's slot is free for others.
func TestALongTransactionElsewhereIsAnsweredInProgress(t *testing.T) {
	t.Parallel()
	w := open(t)
	n := w.works(participant.Config{})
	s := w.step()
	w.otherProcess(s)
	want(t, "reply", text(w.send(s.action())), "in_progress")
	want(t, "reply to the compensation", text(w.send(s.compensation(wire.Unknown))), "in_progress")
	want(t, "calls", n.do.Load()+n.undo.Load(), 0)
}

// P5: a refusal takes back what the handler wrote and is remembered: a
// duplicate gets the same answer, even if the handler would now say yes.
func TestARefusalTakesBackTheWritesAndIsRemembered(t *testing.T) {
	t.Parallel()
	w := open(t)
	n := &calls{fail: func(string) error { return participant.Refuse("sold_out", "none left") }}
	w.run(participant.Config{}, n.register)
	s := w.step()

	for range 2 {
		r := w.send(s.action())
		want(t, "reply", text(r), "failed sold_out")
		want(t, "message", r.Failure.Message, "none left")
	}
	want(t, "calls", n.do.Load(), 1)
	want(t, "effects", s.rows(), "0/0")
	want(t, "inbox", s.inbox(wire.Action), "failed")
}

// P5: what did not work and may work later leaves no trace.
func TestATransientErrorTakesBackEverything(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name  string
		err   func() error
		reply string
		after time.Duration
	}{
		{"an error", func() error { return errors.New("disk full") }, "retry transient", 0},
		{"an error with a wish", func() error { return participant.RetryAfter(7*time.Second, errors.New("busy")) }, "retry transient", 7 * time.Second},
		{"a panic", func() error { panic("nil map") }, "retry panic", 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			w := open(t)
			n := &calls{}
			n.fail = func(string) error {
				if n.do.Load() == 1 {
					return tc.err()
				}
				return nil
			}
			w.run(participant.Config{}, n.register)
			s := w.step()

			r := w.send(s.action())
			want(t, "reply", text(r), tc.reply)
			want(t, "wish", r.RetryAfter, tc.after)
			want(t, "effects", s.rows(), "0/0")
			want(t, "inbox", s.inbox(wire.Action), "")
			want(t, "next attempt", text(w.send(s.action())), "succeeded 2")
			want(t, "effects", s.rows(), "1/0")
		})
	}
}

// A handler that hides a database error from us cannot make us commit half.
func TestASwallowedDatabaseErrorIsTransient(t *testing.T) {
	t.Parallel()
	w := open(t)
	w.run(participant.Config{}, func(p *participant.Participant) {
		p.Step("do", "", participant.Handlers{Do: func(ctx context.Context, tx pgx.Tx, c participant.Command) (any, error) {
			_, _ = tx.Exec(ctx, `INSERT INTO effects VALUES ($1, 'do')`, c.EffectID)
			_, _ = tx.Exec(ctx, `SELECT 1/0`)
			return "done", nil
		}})
	})
	s := w.step()
	want(t, "reply", text(w.send(s.action())), "retry transient")
	want(t, "effects", s.rows(), "0/0")
	want(t, "inbox", s.inbox(wire.Action), "")
}

// P5: a reply too large to be sent would be stored and never arrive.
func TestAResultThatCannotBeSentIsNotStored(t *testing.T) {
	t.Parallel()
	w := open(t)
	results := map[string]any{`"large"`: make([]byte, wire.MaxBody), `"no json"`: func() {}}
	w.run(participant.Config{}, func(p *participant.Participant) {
		p.Step("do", "", participant.Handlers{Do: func(ctx context.Context, tx pgx.Tx, c participant.Command) (any, error) {
			_, err := tx.Exec(ctx, `INSERT INTO effects VALUES ($1, 'do')`, c.EffectID)
			return results[string(c.Payload)], err
		}})
	})
	for payload := range results {
		s := w.step()
		r := w.send(s.action(func(c *wire.Command) { c.Payload = []byte(payload) }))
		want(t, "reply to "+payload, text(r), "retry transient")
		want(t, "effects of "+payload, s.rows(), "0/0")
	}
}

// What a handler is told.
func TestAHandlerSeesTheCommand(t *testing.T) {
	t.Parallel()
	w := open(t)
	seen := make(chan participant.Command, 2)
	w.run(participant.Config{}, func(p *participant.Participant) {
		tell := func(_ context.Context, _ pgx.Tx, c participant.Command) (any, error) { seen <- c; return nil, nil }
		p.Step("do", "undo", participant.Handlers{Do: tell, Undo: tell})
	})
	s := w.step()
	w.send(s.action(func(c *wire.Command) { c.Attempt, c.Payload = 3, []byte(`{"n":1}`) }))
	c := <-seen
	want(t, "effect id", c.EffectID, s.saga+"/a-step/action")
	want(t, "saga", c.Saga, s.saga)
	want(t, "step", c.Step, "a-step")
	want(t, "action", c.Action, "do")
	want(t, "attempt", c.Attempt, 3)
	want(t, "payload", string(c.Payload), `{"n":1}`)
	want(t, "compensates", c.Compensates, "")

	w.send(s.compensation(wire.Succeeded))
	c = <-seen
	want(t, "effect id", c.EffectID, s.saga+"/a-step/compensation")
	want(t, "compensates", c.Compensates, s.saga+"/a-step/action")
}

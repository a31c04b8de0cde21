package participant_test

import (
	"context"
	"errors"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/skald-saga/skald/internal/wire"
	"github.com/skald-saga/skald/participant"
)

// many is a bulk step that writes one row for each command that it accepts.
// Its first transaction waits until all others have arrived.
type many struct {
	calls
	mu     sync.Mutex
	groups [][]string // payloads, by transaction
	hold   chan bool
	result func(c participant.Command) participant.Result // nil: it worked
	err    func(cs []participant.Command) error           // nil: none
}

func (m *many) register(p *participant.Participant) {
	p.Bulk("do", "undo", participant.Bulk{
		Do: m.doAll,
		Undo: func(ctx context.Context, tx pgx.Tx, c participant.Command) (any, error) {
			return m.undo.Add(1), m.write(ctx, tx, c.Compensates, "undo")
		},
	})
}

func (m *many) doAll(ctx context.Context, tx pgx.Tx, cs []participant.Command) ([]participant.Result, error) {
	var payloads []string
	for _, c := range cs {
		payloads = append(payloads, string(c.Payload))
	}
	m.mu.Lock()
	m.groups = append(m.groups, payloads)
	first := len(m.groups) == 1
	m.mu.Unlock()
	if first && m.hold != nil {
		<-m.hold
	}
	results := make([]participant.Result, len(cs))
	for i, c := range cs {
		if m.result != nil {
			results[i] = m.result(c)
		}
		if results[i].Err != nil {
			continue
		}
		if _, err := tx.Exec(ctx, `INSERT INTO effects VALUES ($1, 'do')`, c.EffectID); err != nil {
			return nil, err
		}
		if results[i].Value == nil {
			results[i].Value = m.do.Add(1)
		}
	}
	if m.err != nil {
		return results, m.err(cs)
	}
	return results, nil
}

// together sends commands with these payloads so that they are done in one
// transaction, behind one that only waits for them.
func (w *world) together(m *many, payloads ...string) (steps []step, replies []wire.Reply) {
	w.t.Helper()
	m.hold = make(chan bool)
	w.run(participant.Config{Concurrency: 64}, m.register)
	release := w.opener(m.hold)
	first := w.step().action(func(c *wire.Command) { c.Payload = []byte(`"first"`) })
	firstReply := w.post(first)
	var commands []wire.Command
	var answers []<-chan wire.Reply
	for _, payload := range payloads {
		s := w.step()
		c := s.action(func(c *wire.Command) { c.Payload = []byte(payload) })
		steps, commands, answers = append(steps, s), append(commands, c), append(answers, w.twice(c))
	}
	release()
	w.await(first, firstReply)
	for i, c := range commands {
		replies = append(replies, w.await(c, answers[i]))
	}
	return steps, replies
}

// What waits is done in one transaction; each command has its own answer.
func TestWhatWaitsIsDoneTogether(t *testing.T) {
	t.Parallel()
	w := open(t)
	m := &many{result: func(c participant.Command) participant.Result {
		switch string(c.Payload) {
		case `"no"`:
			return participant.Result{Err: participant.Refuse("no", "no")}
		case `"later"`:
			return participant.Result{Err: errors.New("later")}
		}
		return participant.Result{Value: string(c.Payload)}
	}}
	steps, replies := w.together(m, `"a"`, `"no"`, `"later"`, `"b"`)
	for i, tc := range []struct{ reply, rows, inbox string }{
		{`succeeded "\"a\""`, "1/0", "succeeded"}, {"failed no", "0/0", "failed"}, {"retry transient", "0/0", ""}, {`succeeded "\"b\""`, "1/0", "succeeded"},
	} {
		want(t, "reply", text(replies[i]), tc.reply)
		want(t, "effects", steps[i].rows(), tc.rows)
		want(t, "inbox", steps[i].inbox(wire.Action), tc.inbox)
	}
	if len(m.groups) > 3 { // 2, or 3 if a goroutine was slow to queue up
		t.Errorf("5 commands were done in %d transactions: %v", len(m.groups), m.groups)
	}
}

// P10: a command that spoils the transaction fails alone.
func TestABadCommandFailsAlone(t *testing.T) {
	t.Parallel()
	for name, spoil := range map[string]func([]participant.Command) error{
		"with an error": func([]participant.Command) error { return errors.New("bad") },
		"with a panic":  func([]participant.Command) error { panic("bad") },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := open(t)
			m := &many{err: func(cs []participant.Command) error {
				for _, c := range cs {
					if string(c.Payload) == `"bad"` {
						return spoil(cs)
					}
				}
				return nil
			}}
			steps, replies := w.together(m, `1`, `2`, `"bad"`, `4`, `5`)
			for i := range steps {
				if i == 2 {
					want(t, "the bad one", string(replies[i].Outcome), "retry")
					want(t, "its effects", steps[i].rows(), "0/0")
					want(t, "its inbox", steps[i].inbox(wire.Action), "")
					continue
				}
				want(t, "a good one", string(replies[i].Outcome), "succeeded")
				want(t, "its effects", steps[i].rows(), "1/0")
			}
		})
	}
}

// P10: nor does an effect that another process is at work on hold up others.
func TestAnEffectAtWorkElsewhereDelaysNobody(t *testing.T) {
	t.Parallel()
	w := open(t)
	m := &many{hold: make(chan bool)}
	w.run(participant.Config{Concurrency: 64}, m.register)
	release := w.opener(m.hold)
	first := w.step().action()
	firstReply := w.post(first)
	busy, free := w.step(), w.step()
	w.otherProcess(busy)
	a, b := busy.action(), free.action()
	busyReply, freeReply := w.post(a), w.post(b)
	release()
	w.await(first, firstReply)
	want(t, "busy", text(w.await(a, busyReply)), "in_progress")
	want(t, "free", string(w.await(b, freeReply).Outcome), "succeeded")
}

// P5: the rules of the inbox are the same for bulk steps.
func TestABulkEffectHappensOnce(t *testing.T) {
	t.Parallel()
	w := open(t)
	m := &many{}
	w.run(participant.Config{}, m.register)
	s := w.step()
	for range 2 {
		want(t, "action", text(w.send(s.action())), "succeeded 1")
	}
	for range 2 {
		want(t, "compensation", text(w.send(s.compensation(wire.Succeeded))), "succeeded 1")
	}
	want(t, "effects", s.rows(), "1/1")

	late := w.step()
	want(t, "compensation first", text(w.send(late.compensation(wire.Unknown))), "succeeded null")
	want(t, "late action", text(w.send(late.action())), "failed compensated")
	want(t, "effects", late.rows(), "0/0")
	want(t, "calls", m.do.Load(), 1)
}

// A handler that does not answer for all of its commands answers for none.
func TestABulkResultThatCannotBeSentIsTakenBack(t *testing.T) {
	t.Parallel()
	for name, value := range map[string]any{"too large": make([]byte, wire.MaxBody), "no JSON": func() {}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := open(t)
			m := &many{result: func(participant.Command) participant.Result { return participant.Result{Value: value} }}
			w.run(participant.Config{}, m.register)
			s := w.step()
			want(t, "reply", text(w.send(s.action())), "retry transient")
			want(t, "effects", s.rows(), "0/0")
			want(t, "inbox", s.inbox(wire.Action), "")
		})
	}
	t.Run("missing", func(t *testing.T) {
		t.Parallel()
		w := open(t)
		w.run(participant.Config{}, func(p *participant.Participant) {
			p.Bulk("do", "", participant.Bulk{Do: func(ctx context.Context, tx pgx.Tx, cs []participant.Command) ([]participant.Result, error) {
				_, err := tx.Exec(ctx, `INSERT INTO effects VALUES ($1, 'do')`, cs[0].EffectID)
				return nil, err
			}})
		})
		s := w.step()
		want(t, "reply", text(w.send(s.action())), "retry transient")
		want(t, "effects", s.rows(), "0/0")
	})
}

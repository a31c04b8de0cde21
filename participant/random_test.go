package participant_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/skald-saga/skald/internal/wire"
	"github.com/skald-saga/skald/participant"
)

// chaos is a service whose handlers fail at random, before or after their
// effect. It has three steps: one in its database, the same in bulk, and one
// at a target elsewhere that is idempotent by key, as External asks for.
type chaos struct {
	*world
	mu   sync.Mutex
	rand *rand.Rand
	log  map[string][]string // handler calls by the action's effect id, in order
}

func (x *chaos) note(effect, what string) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.log[effect] = append(x.log[effect], what)
}

func (x *chaos) n(n int) int {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.rand.IntN(n)
}

// misfortune strikes three times in ten.
func (x *chaos) misfortune() error {
	switch x.n(20) {
	case 0:
		panic("misfortune")
	case 1, 2, 3, 4, 5:
		return errors.New("misfortune")
	}
	return nil
}

func (x *chaos) register(p *participant.Participant) {
	p.Step("do", "undo", participant.Handlers{Do: x.do, Undo: x.undo})
	p.Bulk("do-bulk", "undo-bulk", participant.Bulk{Do: x.doBulk, Undo: x.undo})
	p.External("do-far", "undo-far", participant.External{Do: x.doFar, Undo: x.undoFar})
}

func (x *chaos) do(ctx context.Context, tx pgx.Tx, c participant.Command) (any, error) {
	if _, err := tx.Exec(ctx, `INSERT INTO effects VALUES ($1, 'do')`, c.EffectID); err != nil {
		return nil, err
	}
	if x.n(6) == 0 {
		x.note(c.EffectID, "refused")
		return nil, participant.Refuse("no", "no")
	}
	if err := x.misfortune(); err != nil {
		return nil, err
	}
	return uuid.NewString(), nil
}

func (x *chaos) doBulk(ctx context.Context, tx pgx.Tx, cs []participant.Command) ([]participant.Result, error) {
	results := make([]participant.Result, len(cs))
	for i, c := range cs {
		switch x.n(6) {
		case 0:
			results[i].Err = participant.Refuse("no", "no")
			continue
		case 1:
			results[i].Err = errors.New("misfortune")
			continue
		}
		if _, err := tx.Exec(ctx, `INSERT INTO effects VALUES ($1, 'do')`, c.EffectID); err != nil {
			return nil, err
		}
		results[i].Value = uuid.NewString()
	}
	return results, x.misfortune()
}

func (x *chaos) undo(ctx context.Context, tx pgx.Tx, c participant.Command) (any, error) {
	x.note(c.Compensates, "undo")
	if _, err := tx.Exec(ctx, `INSERT INTO effects VALUES ($1, 'undo')`, c.Compensates); err != nil {
		return nil, err
	}
	return uuid.NewString(), x.misfortune()
}

// doFar does nothing under a key that was called off.
func (x *chaos) doFar(ctx context.Context, c participant.Command) (any, error) {
	x.note(c.EffectID, "do")
	if c.Saga[0] < '3' { // the target refuses for good, and always the same
		x.note(c.EffectID, "refused")
		return nil, participant.Refuse("no", "no")
	}
	if err := x.misfortune(); err != nil {
		return nil, err
	}
	_, err := x.pool.Exec(ctx, `INSERT INTO far (key, state) VALUES ($1, 'done') ON CONFLICT DO NOTHING`, c.EffectID)
	return c.EffectID, errors.Join(err, x.misfortune())
}

func (x *chaos) undoFar(ctx context.Context, c participant.Command) (any, error) {
	x.note(c.Compensates, "undo")
	if err := x.misfortune(); err != nil {
		return nil, err
	}
	_, err := x.pool.Exec(ctx, `INSERT INTO far (key, state) VALUES ($1, 'undone') ON CONFLICT (key) DO UPDATE SET state = 'undone'`, c.Compensates)
	return nil, errors.Join(err, x.misfortune())
}

// trial is one step and what the engine has heard of it.
type trial struct {
	step
	kind        string          // suffix of its operations
	said        map[string]bool // definitive replies to the action
	compensated bool
}

// post sends a command up to three times, the way relay and JetStream may.
func (x *chaos) post(c wire.Command) <-chan wire.Reply {
	replies := x.world.post(c)
	for range x.n(3) {
		again := c
		again.MsgID = uuid.NewString() // or JetStream drops it
		x.share(again.MsgID, c.MsgID)
		if _, err := x.js.PublishMsg(context.Background(), message(x.t, again)); err != nil {
			x.t.Error(err)
		}
	}
	return replies
}

// share gives the replies to one message to those who wait for another's.
func (x *chaos) share(id, to string) {
	x.world.mu.Lock()
	defer x.world.mu.Unlock()
	x.waiting[id] = x.waiting[to]
}

// play is an engine that loses patience at random: it may compensate at any
// time, repeats the compensation until it has worked, and late duplicates of
// the action go on arriving.
func (tr *trial) play(x *chaos) error {
	at := func(operation string) func(*wire.Command) {
		return func(c *wire.Command) { c.Subject = wire.CommandSubject("skald", service, operation+tr.kind) }
	}
	answered := false
	for range 1 + x.n(4) { // attempts, some of them not waited for
		replies := x.post(tr.action(at("do")))
		if answered = x.n(3) > 0 && tr.hear(x, replies); answered {
			break
		}
	}
	if answered && x.n(2) == 0 {
		return nil // the saga went well, or the step failed: nothing to undo
	}
	outcome := wire.Unknown
	if tr.said[string(wire.Succeeded)] {
		outcome = wire.Succeeded
	}
	for range 200 {
		r := x.await(wire.Command{}, x.post(tr.compensation(outcome, at("undo"))))
		if r.Outcome == wire.Succeeded {
			tr.compensated = true
			break
		}
	}
	if !tr.compensated {
		return errors.New("the compensation never worked")
	}
	for range x.n(3) {
		tr.hear(x, x.post(tr.action(at("do"))))
	}
	return nil
}

// hear waits for one reply and reports whether it was definitive.
func (tr *trial) hear(x *chaos, replies <-chan wire.Reply) bool {
	r := x.await(tr.action(), replies)
	if r.Outcome == wire.Succeeded || r.Outcome == wire.Failed {
		x.mu.Lock()
		defer x.mu.Unlock()
		tr.said[text(r)] = true
		tr.said[string(r.Outcome)] = true
		return true
	}
	return false
}

// P5, P3: whatever is delivered, how often and in which order, each effect is
// as the rules say.
func TestEveryEffectHappensOnceWhateverIsDelivered(t *testing.T) {
	t.Parallel()
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	w := open(t)
	if _, err := w.pool.Exec(t.Context(), `CREATE TABLE far (key text PRIMARY KEY, state text)`); err != nil {
		t.Fatal(err)
	}
	x := &chaos{world: w, rand: rand.New(rand.NewPCG(seed, 1)), log: map[string][]string{}}
	quiet := participant.Config{Concurrency: 4}
	for range 2 { // processes
		w.run(quiet, x.register)
	}
	trials := make([]*trial, 150)
	var engines sync.WaitGroup
	for i := range trials {
		tr := &trial{step: w.step(), kind: []string{"", "-bulk", "-far"}[i%3], said: map[string]bool{}}
		trials[i] = tr
		engines.Go(func() {
			if err := tr.play(x); err != nil {
				t.Errorf("%s: %v", tr.saga, err)
			}
		})
	}
	engines.Wait()
	w.awaitAcknowledged()
	for _, tr := range trials {
		if err := tr.verdict(x); err != nil {
			t.Errorf("step do%s, compensated %v, said %v, handlers %v: %v", tr.kind, tr.compensated, tr.said, x.log[tr.id(wire.Action).String()], err)
		}
	}
}

// verdict compares what happened with the rules.
func (tr *trial) verdict(x *chaos) error {
	effect := tr.id(wire.Action).String()
	calls := x.log[effect]
	if tr.kind != "-far" {
		return tr.verdictNear(tr.rows())
	}
	var state string
	if err := x.pool.QueryRow(context.Background(), `SELECT coalesce(max(state), '') FROM far WHERE key = $1`, effect).Scan(&state); err != nil {
		return err
	}
	refused, undone := slices.Contains(calls, "refused"), slices.Contains(calls, "undo")
	switch {
	case tr.compensated && state == "done":
		return errors.New("compensated, and the effect is there")
	case tr.compensated && !undone && slices.Contains(calls, "do") && !refused:
		return errors.New("compensated as if it had never begun")
	case !tr.compensated && tr.said["succeeded"] && state != "done":
		return fmt.Errorf("succeeded, and the effect is %q", state)
	case refused && state == "done":
		return errors.New("refused, and the effect is there")
	}
	return nil
}

func (tr *trial) verdictNear(rows string) error {
	definitive := 0
	for said := range tr.said {
		if said != "succeeded" && said != "failed" {
			definitive++
		}
	}
	switch {
	case definitive > 1:
		return errors.New("two answers to one effect id")
	case tr.compensated && rows != "0/0" && rows != "1/1":
		return fmt.Errorf("compensated with effects %s", rows)
	case tr.said["succeeded"] && rows != map[bool]string{false: "1/0", true: "1/1"}[tr.compensated]:
		return fmt.Errorf("succeeded with effects %s", rows)
	case tr.said["failed"] && rows != "0/0":
		return fmt.Errorf("failed with effects %s", rows)
	case rows != "0/0" && rows != "1/0" && rows != "1/1":
		return fmt.Errorf("effects %s", rows)
	}
	return nil
}

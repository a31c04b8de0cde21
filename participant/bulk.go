package participant

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"slices"
	"strings"
	"sync"

	"github.com/jackc/pgx/v5"

	"github.com/skald-saga/skald/internal/wire"
)

// Bulk are the two operations of a step whose effects are in the participant's
// own database, for steps that thousands of sagas want at once. What is
// waiting is done together: one transaction, one lock on the row that they all
// want. The rules are those of [Handlers], with one difference: there is no
// savepoint, so Do must not have written anything for a command whose Result
// has an error.
//
// Do returns one result for each command. If it returns an error instead, all
// is rolled back and done again in two halves, so that one bad command fails
// alone.
type Bulk struct {
	Do   func(ctx context.Context, tx pgx.Tx, cs []Command) ([]Result, error)
	Undo func(ctx context.Context, tx pgx.Tx, c Command) (result any, err error) // nil: there is no compensation
}

// Result is what came of one of many commands: a value, or an error as
// [Handlers] return it.
type Result struct {
	Value any
	Err   error
}

// Bulk registers an action for many commands at once, and its compensation.
// No more are done together than there are handlers (see Config.Concurrency).
func (p *Participant) Bulk(action, compensation string, h Bulk) {
	g := &group{Participant: p, do: h.Do}
	p.register(action, wire.Action, h.Do != nil && p.cfg.Pool != nil, g.run)
	if h.Undo != nil {
		p.register(compensation, wire.Compensation, true,
			func(ctx context.Context, c wire.Command) wire.Reply { return p.undo(ctx, c, h.Undo) })
	}
}

// group does together what is waiting.
type group struct {
	*Participant
	do func(ctx context.Context, tx pgx.Tx, cs []Command) ([]Result, error)

	mu      sync.Mutex
	waiting []*job
	leading bool // somebody is at work on what waits
}

type job struct {
	ctx   context.Context //nolint:containedctx // its caller's, who waits for the reply
	c     wire.Command
	reply chan wire.Reply
}

const maxGroup = 256

func (g *group) run(ctx context.Context, c wire.Command) wire.Reply {
	j := &job{ctx: ctx, c: c, reply: make(chan wire.Reply, 1)}
	g.mu.Lock()
	g.waiting = append(g.waiting, j)
	if !g.leading {
		g.leading = true
		go g.lead() //nolint:contextcheck // it serves more than this caller
	}
	g.mu.Unlock()
	return <-j.reply
}

// lead works until nothing waits. No timer collects commands: those that come
// during one transaction are the next one's.
func (g *group) lead() {
	for {
		g.mu.Lock()
		n := min(len(g.waiting), maxGroup)
		jobs := slices.Clone(g.waiting[:n])
		g.waiting = slices.Delete(g.waiting, 0, n)
		g.leading = n > 0
		g.mu.Unlock()
		if n == 0 {
			return
		}
		slices.SortFunc(jobs, func(a, b *job) int { return strings.Compare(a.c.EffectID.String(), b.c.EffectID.String()) })
		g.execute(jobs)
	}
}

// execute does jobs together, or in halves. It answers each of them.
func (g *group) execute(jobs []*job) {
	replies, bad, err := g.together(jobs)
	switch {
	case err == nil:
		for i, j := range jobs {
			j.reply <- replies[i]
		}
	case bad && len(jobs) > 1:
		g.execute(jobs[:len(jobs)/2])
		g.execute(jobs[len(jobs)/2:])
	default:
		for _, j := range jobs {
			j.reply <- notDone(j.c, err)
		}
	}
}

// together does jobs in one transaction. bad says that the error may be one
// job's fault.
func (g *group) together(jobs []*job) (replies []wire.Reply, bad bool, err error) {
	ctx := jobs[0].ctx // it ends when its job has been answered, not before
	defer func() {
		if v := recover(); v != nil {
			g.metrics.panics.Inc()
			g.cfg.Log.ErrorContext(ctx, "handler panicked", "commands", len(jobs), "panic", v, "stack", string(debug.Stack()))
			bad, err = true, errPanic
		}
	}()
	err = pgx.BeginTxFunc(ctx, g.cfg.Pool, hasty, func(tx pgx.Tx) error {
		bad = ctx.Err() == nil
		b := batch{inbox: inbox{tx: tx, service: g.cfg.Service}, replies: make([]wire.Reply, len(jobs))}
		fresh, err := b.claim(ctx, jobs, g.mayStart)
		if err != nil {
			return err
		}
		if len(fresh) > 0 {
			if err := b.do(ctx, jobs, fresh, g.do); err != nil {
				return err
			}
		}
		replies = b.replies
		return b.settle(ctx, jobs)
	})
	return replies, bad && ctx.Err() == nil, err
}

var errPanic = errors.New("the handler panicked")

// hasty transactions do not wait for an effect that another process is at work
// on: the others of the group would wait with it.
var hasty = pgx.TxOptions{BeginQuery: `BEGIN; SET LOCAL lock_timeout = '100ms'`}

// batch is one transaction of a group.
type batch struct {
	inbox
	replies []wire.Reply
	claimed []bool
}

// claim claims all jobs and returns those that are to be done. The others are
// answered.
func (b *batch) claim(ctx context.Context, jobs []*job, mayStart func(wire.Command) error) (fresh []int, err error) {
	ids := make([]string, len(jobs))
	for i, j := range jobs {
		ids[i] = j.c.EffectID.String()
	}
	// Claimed in sorted order: two processes with the same effects do not block
	// each other. From here on locks are the handler's, and worth waiting for.
	const q = `
		INSERT INTO skald_inbox (service, effect_id, status) SELECT $1, id, 'succeeded' FROM unnest($2::text[]) WITH ORDINALITY AS u (id, n) ORDER BY n
		ON CONFLICT DO NOTHING RETURNING effect_id`
	var queue pgx.Batch
	first := map[string]bool{}
	queue.Queue(q, b.service, ids).Query(func(rows pgx.Rows) error {
		var id string
		_, err := pgx.ForEachRow(rows, []any{&id}, func() error { first[id] = true; return nil })
		return err
	})
	queue.Queue(`SET LOCAL lock_timeout = '3s'`)
	if err := b.tx.SendBatch(ctx, &queue).Close(); err != nil {
		return nil, fmt.Errorf("claim effects: %w", busyOr(err))
	}
	b.claimed = make([]bool, len(jobs))
	for i, j := range jobs {
		b.claimed[i] = first[ids[i]]
		if !b.claimed[i] {
			if b.replies[i], err = b.repeat(ctx, j.c); err != nil {
				return nil, err
			}
			continue
		}
		if err := mayStart(j.c); err != nil {
			b.replies[i] = notDone(j.c, err)
			continue
		}
		fresh = append(fresh, i)
	}
	return fresh, nil
}

func (b *batch) do(ctx context.Context, jobs []*job, fresh []int, h func(context.Context, pgx.Tx, []Command) ([]Result, error)) error {
	commands := make([]Command, len(fresh))
	for n, i := range fresh {
		commands[n] = command(jobs[i].c)
	}
	results, err := h(ctx, b.tx, commands)
	if err != nil {
		return err
	}
	if len(results) != len(commands) {
		return fmt.Errorf("the handler gave %d results for %d commands", len(results), len(commands))
	}
	for n, i := range fresh {
		b.replies[i] = answer(jobs[i].c, results[n].Value, results[n].Err)
		// A result that cannot be sent has had its effect: only rolling back undoes it.
		if results[n].Err == nil && b.replies[i].Outcome == wire.Retry {
			return errors.New(b.replies[i].Failure.Message)
		}
	}
	return nil
}

// settle stores the definitive replies, and forgets what was claimed and not
// done.
func (b *batch) settle(ctx context.Context, jobs []*job) error {
	var ids, statuses, replies, undone []string
	for i, j := range jobs {
		switch r := b.replies[i]; {
		case !b.claimed[i]:
		case r.Outcome == wire.Retry:
			undone = append(undone, j.c.EffectID.String())
		default:
			ids, statuses, replies = append(ids, j.c.EffectID.String()), append(statuses, string(r.Outcome)), append(replies, encode(r))
		}
	}
	var queue pgx.Batch
	if len(ids) > 0 {
		// All of them are there: an update, in words that leave the planner no
		// choice but to find each by its key. A plan for UPDATE that was made while
		// the inbox was small reads all of it, and is kept.
		const q = `
			INSERT INTO skald_inbox (service, effect_id, status, reply)
			SELECT $1, u.id, u.status, u.reply::json FROM unnest($2::text[], $3::text[], $4::text[]) AS u (id, status, reply)
			ON CONFLICT (service, effect_id) DO UPDATE SET status = excluded.status, reply = excluded.reply`
		queue.Queue(q, b.service, ids, statuses, replies)
	}
	if len(undone) > 0 {
		queue.Queue(`DELETE FROM skald_inbox WHERE service = $1 AND effect_id = ANY ($2)`, b.service, undone)
	}
	if queue.Len() == 0 {
		return nil
	}
	if err := b.tx.SendBatch(ctx, &queue).Close(); err != nil {
		return fmt.Errorf("write inbox: %w", err)
	}
	return nil
}

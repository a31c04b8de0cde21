package coordinator

import (
	"context"
	"fmt"
	"time"

	"github.com/skald-saga/skald/internal/saga"
)

const (
	timerBatch     = 500
	timerPoll      = 2 * time.Second       // how late another server's early timer may be noticed
	timerGap       = 20 * time.Millisecond // between two passes: timers that are due closely together go together
	brokenInterval = time.Minute           // how soon to try again a saga that does not fit its definition
	holdLeast      = time.Second           // how soon to look again at a saga whose command is still in the outbox,
	holdMost       = 30 * time.Second      // and how late if that goes on: an outage must not be work for the database
)

// runTimers fires timers until ctx is cancelled. Between passes it sleeps until
// the next timer that it knows of, or for timerPoll: another server may have
// set an earlier one.
func (c *Coordinator) runTimers(ctx context.Context) error {
	next := c.Now()
	for {
		timer := time.NewTimer(min(max(next.Sub(c.Now()), timerGap), timerPoll))
		select {
		case <-ctx.Done():
			timer.Stop()
			return nil
		case due := <-c.timerPoke:
			timer.Stop()
			if due.Before(next) {
				next = due
			}
			continue
		case <-timer.C:
		}
		var err error
		if next, err = c.timerPass(ctx); err != nil {
			if ctx.Err() == nil {
				c.Log.WarnContext(ctx, "timer pass failed", "err", err)
			}
			next = c.Now().Add(timerPoll)
		}
	}
}

// timerPass fires what is due and returns when to look again.
func (c *Coordinator) timerPass(ctx context.Context) (next time.Time, err error) {
	var earliest *time.Time
	if err := c.Pool.QueryRow(ctx, `SELECT min(due_at) FROM saga_timer`).Scan(&earliest); err != nil {
		return time.Time{}, fmt.Errorf("read next timer: %w", err)
	}
	now := c.now()
	if earliest == nil {
		return now.Add(timerPoll), nil
	}
	if earliest.After(now) {
		return *earliest, nil
	}
	return now, c.fireTimers(ctx, now, timerBatch)
}

// pokeTimers makes the loop look at its next due time again. A poke that finds
// one waiting replaces it if it is earlier.
func (c *Coordinator) pokeTimers(due time.Time) {
	for {
		select {
		case c.timerPoke <- due:
			return
		default:
		}
		select {
		case waiting := <-c.timerPoke:
			if waiting.Before(due) {
				due = waiting
			}
		default:
		}
	}
}

// lockDue takes the timer rows that are due and locks those of their sagas
// that are still open. Two servers share the work: a row that the other has
// locked is skipped. The rows go in the transaction that deals with their
// sagas: after a crash they are still there.
const lockDue = `
	WITH due AS (
		DELETE FROM saga_timer WHERE ctid = ANY (ARRAY(
			SELECT ctid FROM saga_timer WHERE due_at <= $1 ORDER BY due_at LIMIT $2 FOR UPDATE SKIP LOCKED))
		RETURNING saga_id, withheld)
	SELECT ` + sagaColumns + `,
	       (s.command_xid >= pg_snapshot_xmax(pg_current_snapshot()) -- of a cluster before this one: see decision 008
	         OR coalesce((SELECT pg_visible_in_snapshot(s.command_xid, l.snap_from) FROM outbox_lane l
	             WHERE l.lane = outbox_lane_of(s.id::text, (SELECT count(*)::int FROM outbox_lane))), true))
	         AND NOT EXISTS (SELECT FROM outbox_parked p WHERE p.key = s.id::text), d.withheld
	FROM (SELECT saga_id, bool_or(withheld) AS withheld FROM due GROUP BY saga_id) d
	JOIN saga s ON s.id = d.saga_id
	WHERE s.status IN ('running', 'compensating', 'stuck')
	ORDER BY s.id FOR UPDATE OF s`

// fireTimers deals with the sagas of the limit earliest timers. If the database
// refuses what comes of them, it is tried with fewer, and one that is refused
// alone is put off: it must not hold up the others.
func (c *Coordinator) fireTimers(ctx context.Context, now time.Time, limit int) error {
	due := func(s session) ([]*row, error) { return s.lockDue(ctx, now, limit) }
	rows, err := c.change(ctx, due, func(tx *transaction) error {
		for _, r := range tx.rows {
			if err := tx.fire(r); err != nil {
				c.Log.ErrorContext(ctx, "saga cannot be worked on", "saga_id", r.id, "err", err)
				r.wakeAt = tx.now.Add(brokenInterval)
				r.due = r.wakeAt
			}
		}
		return nil
	})
	switch {
	case isDataError(err) && limit > 1:
		return c.fireTimers(ctx, now, limit/2)
	case isDataError(err):
		c.Log.ErrorContext(ctx, "what a timer leads to cannot be stored; it is put off", "err", err)
		_, err = c.Pool.Exec(ctx, `
			UPDATE saga_timer SET due_at = $1 WHERE ctid = (SELECT ctid FROM saga_timer WHERE due_at <= $2 ORDER BY due_at LIMIT 1)`,
			now.Add(brokenInterval), now)
	}
	if err != nil {
		return fmt.Errorf("fire timers: %w", err)
	}
	c.Metrics.batch.WithLabelValues("timers").Observe(float64(len(rows)))
	return nil
}

// fire gives a saga whose timer row was taken a tick, and sees that it has
// another row if it still waits for anything: an open saga without a timer
// would be forgotten.
func (tx *transaction) fire(r *row) error {
	// A row that was set before an earlier one took its place leaves that one alone.
	r.rearm = !r.wakeAt.After(tx.now)
	tick := saga.Tick{Publication: saga.Published}
	switch {
	case !r.sent:
		tick.Publication = saga.Withheld
		r.held = true
	case r.heldWas:
		tick.Publication = saga.JustPublished
	}
	d, err := tx.apply(r, tick)
	if err != nil {
		return err
	}
	if d.Ignored != "" {
		r.schedule(tx.now)
	}
	if r.state.WaitsFor() == saga.ForLock { // it may have been granted: that is what woke it
		r.lock = lockWanted
	}
	return nil
}

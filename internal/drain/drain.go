// Package drain publishes the rows of a table that somebody else has made: an
// outbox that a service has already. A [Mapping] says what its columns mean.
//
// It promises less than package outbox, because such a table tells less. Each
// row that is committed and pending is published at least once, under a message
// id that is always the same, and only once its commit is on disk. Rows of one
// key are published in the order of the order column, among those that are
// visible: a row that commits behind others which are ahead of it in that order
// comes late. What was published is gone or marked, so there is nothing to
// rewind, and the table has dead tuples.
package drain

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/skald-saga/skald/internal/outbox"
)

// Drain publishes the pending rows of one table. Any number of them may run:
// one works, the others wait for its lease to end.
type Drain struct {
	Pool      *pgxpool.Pool
	Mapping   *Mapping
	Publisher outbox.Publisher
	Log       *slog.Logger
	Metrics   *Metrics
	Wake      <-chan struct{} // says that rows were committed; may miss any number of times; may be nil

	pageRows int // zero: the default
	rescan   time.Duration
}

const (
	pageRows  = 500
	pageBytes = 8 << 20

	pollFast     = 10 * time.Millisecond
	pollSlow     = 250 * time.Millisecond
	backoffFirst = 50 * time.Millisecond
	backoffMost  = 5 * time.Second

	readTimeout   = time.Minute
	settleTimeout = 10 * time.Second

	rescanEvery = 30 * time.Second // from the beginning of the table
	slack       = 2 * time.Second  // how late a row may commit and be seen before that
	heldFor     = 5 * time.Second  // how long a key waits whose message is blocked
	heldMost    = 1000             // keys that are held, and rows that are skipped
)

// Run publishes until ctx is cancelled, then finishes the page at hand, gives
// the lease back and returns nil. An error means that the table or the mapping
// will not do.
func (d *Drain) Run(ctx context.Context) error {
	if d.Metrics == nil {
		d.Metrics = NewMetrics(nil)
	}
	r := d.run()
	poll, backoff := pollFast, backoffFirst
	for ctx.Err() == nil {
		n, err := r.pass(ctx)
		switch {
		case ctx.Err() != nil:
		case errors.Is(err, ErrMistaken):
			return errors.Join(err, r.lease.release(context.WithoutCancel(ctx)))
		case errors.Is(err, errElsewhere):
			wait(ctx, nil, leaseRetry)
		case err != nil:
			d.Log.WarnContext(ctx, "drain pass failed", "err", err, "published", n, "retry_in", backoff)
			d.Metrics.failedPasses.Inc()
			wait(ctx, nil, backoff)
			backoff = min(2*backoff, backoffMost)
		case n > 0:
			poll, backoff = pollFast, backoffFirst
		default:
			backoff = backoffFirst
			if wait(ctx, d.Wake, poll) {
				poll = pollFast
			} else {
				poll = min(2*poll, pollSlow)
			}
		}
	}
	d.Metrics.leader.Set(0)
	if err := r.lease.release(context.WithoutCancel(ctx)); err != nil {
		d.Log.WarnContext(ctx, "the lease was not given back; it ends by itself", "err", err)
	}
	return nil
}

// wait returns early, and true, when woken.
func wait(ctx context.Context, wake <-chan struct{}, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-wake:
		return true
	case <-t.C:
		return false
	}
}

// run is a drain at work.
type run struct {
	*Drain
	statements
	lease lease

	marks     []mark          // where recent pages began
	scanned   time.Time       // when the table was last read from its beginning
	held      map[string]bool // keys of which a message is blocked
	heldUntil time.Time
	skipped   map[string]bool // ids of rows that can never be published, and are not marked
}

// mark says which order value was the first of what was pending at a time.
type mark struct {
	at    time.Time
	order string
}

// row is a pending row.
type row struct {
	outbox.Row
	id, order string
}

func (d *Drain) run() *run {
	return &run{
		Drain: d, held: map[string]bool{}, skipped: map[string]bool{},
		lease: lease{pool: d.Pool, name: d.Mapping.Lease, owner: uuid.NewString()},
	}
}

// pass publishes one page. It returns how many rows were settled.
func (r *run) pass(ctx context.Context) (int, error) {
	held, err := r.lease.keep(ctx)
	r.Metrics.leader.Set(map[bool]float64{true: 1}[held])
	switch {
	case err != nil:
		return 0, err
	case !held:
		r.marks = nil // somebody else is at work: begin anew after that
		return 0, errElsewhere
	}
	if r.first == "" {
		if r.statements, err = r.Mapping.statements(ctx, r.Pool); err != nil {
			return 0, err
		}
	}
	now := time.Now()
	if len(r.held) > 0 && now.After(r.heldUntil) {
		clear(r.held)
		r.marks = nil // their rows may lie behind us
	}
	rows, err := r.page(ctx, now)
	if err != nil || len(rows) == 0 {
		r.Metrics.oldest.Set(0)
		return 0, err
	}
	if err := r.awaitFlush(ctx); err != nil {
		return 0, err
	}
	return r.publish(ctx, rows, now)
}

// publish offers a page and settles what became of it.
func (r *run) publish(ctx context.Context, rows []row, read time.Time) (int, error) {
	offer := make([]outbox.Row, len(rows))
	for i := range rows {
		offer[i] = rows[i].Row
	}
	r.Metrics.oldest.Set(max(0, time.Since(offer[0].CreatedAt).Seconds()))
	if !r.lease.valid(time.Now()) {
		return 0, errElsewhere
	}
	v := r.judge(rows, r.Publisher.Publish(ctx, offer))
	settleCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), settleTimeout)
	defer cancel()
	if err := r.settle(settleCtx, v); err != nil {
		return 0, errors.Join(err, v.failed)
	}
	r.count(ctx, v)
	if v.failed == nil {
		if rows[0].order != "" {
			r.marks = append(r.marks, mark{read, rows[0].order})
		}
	}
	return len(v.acknowledged) + len(v.dead), v.failed
}

// verdict is what became of a page.
type verdict struct {
	acknowledged []row
	dead         []row // to be marked
	reasons      []string
	skipped      []row
	failed       error
}

// deadMost is how many rows of a page may be marked as dead. More of them are
// not bad messages but a mistake in the mapping or in the broker's set-up: they
// are only skipped, until a person has had a look.
const deadMost = 20

func (r *run) judge(rows []row, results []outbox.Result) verdict {
	var v verdict
	for i, res := range results {
		switch {
		case res.Err == nil:
			v.acknowledged = append(v.acknowledged, rows[i])
		case res.Poison:
			v.dead, v.reasons = append(v.dead, rows[i]), append(v.reasons, res.Err.Error())
		case res.Blocked:
			if len(r.held) == 0 {
				r.heldUntil = time.Now().Add(heldFor)
			}
			r.held[rows[i].Key] = true
		case !r.held[rows[i].Key] && v.failed == nil:
			v.failed = res.Err
		}
	}
	if len(r.held) > heldMost {
		v.failed = cmp.Or(v.failed, fmt.Errorf("messages of more than %d keys are refused for now; all wait", heldMost))
	}
	if r.bury == "" || len(v.dead) > deadMost {
		v.skipped, v.dead = v.dead, nil
		for _, s := range v.skipped {
			r.skipped[s.id] = true
		}
	}
	if len(r.skipped) > heldMost {
		v.failed = cmp.Or(v.failed, fmt.Errorf("more than %d rows can never be published: mend the mapping or the rows, and start again", heldMost))
	}
	return v
}

func (r *run) count(ctx context.Context, v verdict) {
	r.Metrics.published.WithLabelValues("acknowledged").Add(float64(len(v.acknowledged)))
	r.Metrics.published.WithLabelValues("dead").Add(float64(len(v.dead)))
	r.Metrics.published.WithLabelValues("skipped").Add(float64(len(v.skipped)))
	r.Metrics.skipped.Set(float64(len(r.skipped)))
	for _, a := range v.acknowledged {
		r.Metrics.latency.Observe(max(0, time.Since(a.CreatedAt).Seconds()))
	}
	for i, d := range append(v.dead, v.skipped...) {
		r.Log.ErrorContext(ctx, "row can never be published", "id", d.id, "subject", d.Subject, "key", d.Key, "err", v.reasons[i],
			"marked", len(v.dead) > 0)
	}
}

// floor is where to begin to read: what was pending a while ago began there.
// Rows that commit later than that, ahead of it, are found when the table is
// read from its beginning.
func (r *run) floor(now time.Time) (order string, ok bool) {
	if now.Sub(r.scanned) >= cmp.Or(r.rescan, rescanEvery) {
		r.marks, r.scanned = nil, now
	}
	for len(r.marks) > 1 && now.Sub(r.marks[1].at) >= slack {
		r.marks = r.marks[1:]
	}
	if len(r.marks) == 0 || now.Sub(r.marks[0].at) < slack {
		return "", false
	}
	return r.marks[0].order, true
}

// awaitFlush sees to it that what was read is on disk: a commit with
// synchronous_commit off is visible before that, and a crash may take it back.
func (r *run) awaitFlush(ctx context.Context) error {
	var flushed bool
	if err := r.Pool.QueryRow(ctx, `SELECT pg_current_wal_flush_lsn() >= pg_current_wal_insert_lsn()`).Scan(&flushed); err != nil {
		return fmt.Errorf("read flush position: %w", err)
	}
	if flushed {
		return nil
	}
	return r.lease.renew(ctx, r.Pool) // its commit flushes
}

// settle takes the rows out of what is pending, if the lease is still ours.
func (r *run) settle(ctx context.Context, v verdict) error {
	if len(v.acknowledged)+len(v.dead) == 0 {
		return nil
	}
	err := pgx.BeginFunc(ctx, r.Pool, func(tx pgx.Tx) error {
		if err := r.lease.renew(ctx, tx); err != nil {
			return err
		}
		if err := taken(tx.QueryRow(ctx, r.done, ids(v.acknowledged))); err != nil {
			return err
		}
		for i, d := range v.dead {
			if err := taken(tx.QueryRow(ctx, r.bury, ids(v.dead[i:i+1]), v.reasons[i])); err != nil {
				return fmt.Errorf("mark row %s as dead: %w", d.id, err)
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("settle: %w", err)
	}
	return nil
}

// taken wants no row to be pending that was settled.
func taken(answer pgx.Row) error {
	var still int
	if err := answer.Scan(&still); err != nil {
		return err
	}
	if still > 0 {
		return errStillPending
	}
	return nil
}

func ids(rows []row) []string {
	list := make([]string, len(rows))
	for i := range rows {
		list[i] = rows[i].id
	}
	return list
}

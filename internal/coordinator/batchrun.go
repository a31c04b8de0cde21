package coordinator

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/skald-saga/skald/internal/saga"
)

const (
	batchPoll  = time.Second            // how late another server's batch operation may be noticed
	batchPage  = 50                     // sagas in one transaction
	batchGap   = 250 * time.Millisecond // between two pages of one operation, on whatever servers
	batchLease = 15 * time.Second       // after this another server takes over
)

// pokeBatches lets the loop look at once.
func (c *Coordinator) pokeBatches() {
	select {
	case c.batchPoke <- struct{}{}:
	default:
	}
}

// runBatches works off batch operations, page by page.
func (c *Coordinator) runBatches(ctx context.Context) error {
	for {
		wait, err := c.batchPass(ctx)
		if err != nil && ctx.Err() == nil {
			c.Log.WarnContext(ctx, "working off a batch operation failed", "err", err)
		}
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			timer.Stop()
			return nil
		case <-c.batchPoke:
		case <-timer.C:
		}
		timer.Stop()
	}
}

// batchPass does one page of the operation whose turn it is, and returns when
// to look again. A server that dies in it has done all of the page or nothing;
// when its lease is over the next one finds out which.
func (c *Coordinator) batchPass(ctx context.Context) (time.Duration, error) {
	const claim = `
		UPDATE batch_operation SET next_at = clock_timestamp() + make_interval(secs => $1)
		WHERE id = (SELECT id FROM batch_operation WHERE status = 'running' AND next_at <= clock_timestamp()
		            ORDER BY next_at LIMIT 1 FOR UPDATE SKIP LOCKED)
		RETURNING ` + batchColumns
	rows, err := c.Pool.Query(ctx, claim, batchLease.Seconds())
	if err != nil {
		return batchPoll, fmt.Errorf("claim batch operation: %w", err)
	}
	b, err := pgx.CollectExactlyOneRow(rows, scanBatch)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return batchPoll, nil
	case err != nil:
		return batchPoll, fmt.Errorf("claim batch operation: %w", err)
	}
	ids, err := c.nextOf(ctx, b)
	if err == nil && len(ids) > 0 {
		err = c.doPage(ctx, b, ids)
	}
	if err != nil {
		return batchPoll, fmt.Errorf("batch operation %s: %w", b.ID, err)
	}
	after := `SET next_at = clock_timestamp() + make_interval(secs => $2)`
	arg := any(batchGap.Seconds())
	if len(ids) == 0 {
		after, arg = `SET status = 'completed', ended_at = $2`, c.now()
	}
	if _, err := c.Pool.Exec(ctx, `UPDATE batch_operation `+after+` WHERE id = $1 AND status = 'running'`, b.ID, arg); err != nil {
		return batchPoll, fmt.Errorf("batch operation %s: %w", b.ID, err)
	}
	return batchGap, nil
}

// nextOf finds the sagas that come next. A filter is asked when their turn
// comes: a saga that has gone on since is left alone.
func (c *Coordinator) nextOf(ctx context.Context, b Batch) (uuids, error) {
	q := query{text: `SELECT s.id FROM saga s WHERE true`}
	if b.Filter != nil {
		b.Filter.where(&q)
		q.and(`s.id <= `, b.UpTo)
		q.and(`s.id > coalesce((SELECT i.saga_id FROM batch_item i WHERE i.batch_id = `, b.ID)
		q.text += ` ORDER BY i.saga_id DESC LIMIT 1), '00000000-0000-0000-0000-000000000000')`
	} else {
		q.text = `SELECT s.id FROM (SELECT unnest(ids) FROM batch_operation WHERE true`
		q.and(`id = `, b.ID)
		q.text += `) s (id) WHERE true`
		q.and(`NOT EXISTS (SELECT FROM batch_item i WHERE i.saga_id = s.id AND i.batch_id = `, b.ID)
		q.text += `)`
	}
	rows, err := c.Pool.Query(ctx, q.text+fmt.Sprintf(` ORDER BY s.id LIMIT %d`, batchPage), q.args...)
	if err != nil {
		return nil, fmt.Errorf("find next sagas: %w", err)
	}
	ids, err := pgx.CollectRows(rows, pgx.RowTo[[16]byte])
	if err != nil {
		return nil, fmt.Errorf("find next sagas: %w", err)
	}
	return ids, nil
}

// batchItem is the row that says what became of a saga.
type batchItem struct {
	batch, saga   uuid.UUID
	at            time.Time
	outcome, code string
}

const insertItem = `INSERT INTO batch_item (batch_id, saga_id, at, outcome, code) VALUES ($1, $2, $3, $4, $5)`

func (i *batchItem) queue(b *pgx.Batch) {
	b.Queue(insertItem, i.batch, i.saga, i.at, i.outcome, i.code)
}

// doPage asks each saga for what the operation is about.
func (c *Coordinator) doPage(ctx context.Context, b Batch, ids uuids) error {
	op := Operation{Actor: b.Actor, Reason: b.Reason, batch: b.ID}
	if b.Action == "restart" {
		return c.restartPage(ctx, b, op, ids)
	}
	req, err := b.request(op)
	if err != nil {
		return err
	}
	var missing []batchItem
	_, err = c.change(ctx, lockByID(ctx, ids), func(tx *transaction) error {
		missing = nil
		for _, id := range ids {
			item := batchItem{b.ID, id, tx.now, NotFound, ""}
			r := tx.rows[id]
			if r == nil {
				missing = append(missing, item)
				continue
			}
			item.outcome, item.code = judge(tx.operate(r, op, req))
			r.beside = append(r.beside, &item)
		}
		return nil
	})
	switch {
	case faster(err):
		return nil
	case isDataError(err) && len(ids) > 1: // one of them cannot be stored: not the others' fault
		for _, id := range ids {
			err = c.doPage(ctx, b, uuids{id})
			if err != nil {
				return err
			}
		}
		return nil
	case isDataError(err):
		c.Log.ErrorContext(ctx, "what a batch operation leads to cannot be stored", "batch_id", b.ID, "saga_id", uuid.UUID(ids[0]), "err", err)
		missing = []batchItem{{b.ID, ids[0], c.now(), Failed, ""}}
	case err != nil:
		return err
	}
	return c.putItems(ctx, missing)
}

// faster reports whether another server has done a saga of the page: then it
// has done all of it.
func faster(err error) bool {
	var pgErr *pgconn.PgError
	return errors.As(err, &pgErr) && pgErr.Code == "23505" && pgErr.TableName == "batch_item"
}

// judge says what became of a request.
func judge(outcome string, err error) (became, code string) {
	var illegal *IllegalError
	switch {
	case err == nil:
		return outcome, ""
	case errors.As(err, &illegal):
		return Refused, illegal.Code
	case errors.Is(err, ErrNotFound): // the step that is meant
		return NotFound, ""
	}
	return Failed, ""
}

// request is what the operation asks of each saga.
func (b Batch) request(op Operation) (request, error) {
	o := b.Options
	switch b.Action {
	case "cancel":
		return request{action: b.Action, event: saga.Cancel{Reason: op.Reason, Actor: op.Actor}}, nil
	case "retry":
		return request{action: b.Action, step: o.Step, details: retryDetails{Step: o.Step}, event: saga.TryNow{Step: o.Step, Reason: op.Reason, Actor: op.Actor}}, nil
	case "pause":
		return request{action: b.Action, event: saga.Pause{Reason: op.Reason, Actor: op.Actor}}, nil
	case "resume":
		return request{action: b.Action, event: saga.Resume{Reason: op.Reason, Actor: op.Actor}}, nil
	case "abandon":
		return request{action: b.Action, event: saga.Abandon{Reason: op.Reason, Actor: op.Actor}}, nil
	case "resolve":
		return request{
			action: b.Action, step: o.Step, details: resolveDetails{o.Step, o.Phase, o.Outcome, o.Result},
			event: saga.Resolve{Step: o.Step, Phase: o.Phase, Outcome: o.Outcome, Result: o.Result, Reason: op.Reason, Actor: op.Actor},
		}, nil
	}
	return request{}, fmt.Errorf("a batch operation cannot %s", b.Action)
}

// restartPage starts sagas again. A saga is restarted once, whatever happens
// between that and the row that says so.
func (c *Coordinator) restartPage(ctx context.Context, b Batch, op Operation, ids uuids) error {
	items := make([]batchItem, 0, len(ids))
	for _, id := range ids {
		item := batchItem{b.ID, id, c.now(), NotFound, ""}
		started, err := c.Restart(ctx, id, op, RestartRequest{Version: b.Options.Version})
		switch item.outcome, item.code = judge(Applied, err); {
		case errors.Is(err, ErrUnknownDefinition):
			item.outcome, item.code = Refused, "unknown-definition"
		case item.outcome == Failed:
			return err // nothing says that it is the saga's fault: later
		case err == nil && started.Replayed:
			item.outcome = Unchanged
		}
		items = append(items, item)
	}
	return c.putItems(ctx, items)
}

// putItems notes what became of sagas that were not changed with it.
func (c *Coordinator) putItems(ctx context.Context, items []batchItem) error {
	if len(items) == 0 {
		return nil
	}
	b := &pgx.Batch{}
	for _, i := range items {
		b.Queue(insertItem+` ON CONFLICT DO NOTHING`, i.batch, i.saga, i.at, i.outcome, i.code)
	}
	if err := c.Pool.SendBatch(ctx, b).Close(); err != nil {
		return fmt.Errorf("note what became of sagas: %w", err)
	}
	return nil
}

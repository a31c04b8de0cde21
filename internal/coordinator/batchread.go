package coordinator

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
)

const batchColumns = `id, action, options, filter, ids, up_to, matched, actor, reason, status, created_at, ended_at`

// Batch returns a batch operation with its progress, or [ErrNotFound].
func (c *Coordinator) Batch(ctx context.Context, id uuid.UUID) (Batch, error) {
	found, err := c.batches(ctx, `SELECT `+batchColumns+` FROM batch_operation WHERE id = $1`, id)
	if err != nil {
		return Batch{}, fmt.Errorf("read batch operation %s: %w", id, err)
	}
	if len(found) == 0 {
		return Batch{}, ErrNotFound
	}
	return found[0], nil
}

// Batches lists batch operations, the latest first, and says whether there are
// more. before is the one that the list goes on behind; nil: from the latest.
func (c *Coordinator) Batches(ctx context.Context, before uuid.UUID, limit int) ([]Batch, bool, error) {
	if before == uuid.Nil {
		before = uuid.Max
	}
	found, err := c.batches(ctx, `SELECT `+batchColumns+` FROM batch_operation WHERE id < $1 ORDER BY id DESC LIMIT $2`, before, limit+1)
	if err != nil {
		return nil, false, fmt.Errorf("list batch operations: %w", err)
	}
	if len(found) > limit {
		return found[:limit], true, nil
	}
	return found, false, nil
}

func (c *Coordinator) batches(ctx context.Context, sql string, args ...any) ([]Batch, error) {
	done, err := c.reading(ctx)
	if err != nil {
		return nil, err
	}
	defer done()
	rows, err := c.Pool.Query(ctx, sql, args...)
	if err != nil {
		return nil, err
	}
	found, err := pgx.CollectRows(rows, scanBatch)
	if err != nil {
		return nil, err
	}
	ids := make(uuids, len(found))
	at := map[uuid.UUID]int{}
	for i, b := range found {
		ids[i], at[b.ID] = b.ID, i
		found[i].Outcomes = map[string]int{}
	}
	rows, err = c.Pool.Query(ctx, `SELECT batch_id, outcome, count(*) FROM batch_item WHERE batch_id = ANY ($1) GROUP BY 1, 2`, ids)
	if err != nil {
		return nil, err
	}
	var (
		id      uuid.UUID
		outcome string
		n       int
	)
	_, err = pgx.ForEachRow(rows, []any{(*[16]byte)(&id), &outcome, &n}, func() error {
		found[at[id]].Outcomes[outcome] = n
		return nil
	})
	return found, err
}

func scanBatch(row pgx.CollectableRow) (b Batch, err error) {
	var options, filter []byte
	var ids uuids
	if err := row.Scan((*[16]byte)(&b.ID), &b.Action, &options, &filter, &ids, (*[16]byte)(&b.UpTo), &b.Matched, &b.Actor, &b.Reason,
		&b.Status, &b.CreatedAt, &b.EndedAt); err != nil {
		return Batch{}, err
	}
	for _, id := range ids {
		b.IDs = append(b.IDs, id)
	}
	if filter != nil {
		b.Filter = &SagaFilter{}
		if err := json.Unmarshal(filter, b.Filter); err != nil {
			return Batch{}, fmt.Errorf("decode filter: %w", err)
		}
	}
	if err := json.Unmarshal(options, &b.Options); err != nil {
		return Batch{}, fmt.Errorf("decode options: %w", err)
	}
	b.CreatedAt = b.CreatedAt.UTC()
	if b.EndedAt != nil {
		at := b.EndedAt.UTC()
		b.EndedAt = &at
	}
	return b, nil
}

// BatchItems lists what became of a batch operation's sagas, in the order of
// their ids behind after; of one outcome only if it is not empty. It returns
// [ErrNotFound] if there is no such operation.
func (c *Coordinator) BatchItems(ctx context.Context, id uuid.UUID, outcome string, after uuid.UUID, limit int) ([]BatchItem, bool, error) {
	done, err := c.reading(ctx)
	if err != nil {
		return nil, false, err
	}
	defer done()
	const q = `
		SELECT saga_id, at, outcome, code FROM batch_item
		WHERE batch_id = $1 AND saga_id > $2 AND ($3 = '' OR outcome = $3) ORDER BY saga_id LIMIT $4`
	var there bool
	if err := c.Pool.QueryRow(ctx, `SELECT EXISTS (SELECT FROM batch_operation WHERE id = $1)`, id).Scan(&there); err != nil {
		return nil, false, fmt.Errorf("read batch operation %s: %w", id, err)
	}
	if !there {
		return nil, false, ErrNotFound
	}
	rows, err := c.Pool.Query(ctx, q, id, after, outcome, limit+1)
	if err != nil {
		return nil, false, fmt.Errorf("read items of batch operation %s: %w", id, err)
	}
	items, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (i BatchItem, err error) {
		var at time.Time
		err = row.Scan((*[16]byte)(&i.Saga), &at, &i.Outcome, &i.Code)
		i.At = at.UTC()
		return i, err
	})
	if err != nil {
		return nil, false, fmt.Errorf("read items of batch operation %s: %w", id, err)
	}
	if len(items) > limit {
		return items[:limit], true, nil
	}
	return items, false, nil
}

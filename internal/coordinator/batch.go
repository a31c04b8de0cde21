package coordinator

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/skald-saga/skald/internal/saga"
)

// ErrBatchEnded refuses to cancel a batch operation that has ended.
var ErrBatchEnded = errors.New("the batch operation has ended")

// TargetBatch is a batch operation, in the audit log.
const TargetBatch = "batch-operation"

// BatchRequest asks for one thing of many sagas: of those that filter selects,
// or of those with the ids.
type BatchRequest struct {
	Action  string // "cancel", "retry", …
	Options BatchOptions
	Filter  *SagaFilter // nil: ids says which
	IDs     []uuid.UUID
	Key     *IdempotencyKey // nil: every request is a new operation
}

// BatchOptions is what some actions need to know.
type BatchOptions struct {
	Step    string          `json:"step,omitempty"`    // resolve, and retry if it is to be one step only
	Phase   saga.Phase      `json:"phase,omitempty"`   // resolve
	Outcome saga.Resolution `json:"outcome,omitempty"` // resolve
	Result  json.RawMessage `json:"result,omitempty"`  // resolve
	Version int             `json:"version,omitempty"` // restart: of the definition; 0: the current one
}

// Batch is a batch operation as it stands.
type Batch struct {
	ID        uuid.UUID
	Action    string
	Options   BatchOptions
	Filter    *SagaFilter
	IDs       []uuid.UUID
	UpTo      uuid.UUID
	Matched   int
	Actor     string
	Reason    string
	Status    string // BatchRunning, …
	CreatedAt time.Time
	EndedAt   *time.Time
	Outcomes  map[string]int // how many sagas by what became of them
}

// The statuses of a batch operation.
const (
	BatchRunning   = "running"
	BatchCompleted = "completed"
	BatchCancelled = "cancelled"
)

// What became of a saga, beside [Applied] and [Unchanged].
const (
	Refused  = "refused"
	NotFound = "not-found"
	Failed   = "failed"
)

// BatchItem is what became of one saga.
type BatchItem struct {
	Saga    uuid.UUID
	At      time.Time
	Outcome string
	Code    string // why it was refused
}

const matchedMost = 1_000_000 // sagas that are counted

// Match counts the sagas that a batch operation would be for, up to a million,
// and returns the ids of some.
func (c *Coordinator) Match(ctx context.Context, req BatchRequest) (matched int, sample []uuid.UUID, err error) {
	done, err := c.reading(ctx)
	if err != nil {
		return 0, nil, err
	}
	defer done()
	q := req.selection(`SELECT s.id FROM saga s WHERE true`)
	count := fmt.Sprintf(`SELECT count(*) FROM (%s LIMIT %d) m`, q.text, matchedMost)
	if err := c.Pool.QueryRow(ctx, count, q.args...).Scan(&matched); err != nil {
		return 0, nil, fmt.Errorf("count sagas of a batch operation: %w", err)
	}
	rows, err := c.Pool.Query(ctx, q.text+` ORDER BY s.id LIMIT 10`, q.args...)
	if err != nil {
		return 0, nil, fmt.Errorf("read sagas of a batch operation: %w", err)
	}
	ids, err := pgx.CollectRows(rows, pgx.RowTo[[16]byte])
	if err != nil {
		return 0, nil, fmt.Errorf("read sagas of a batch operation: %w", err)
	}
	for _, id := range ids {
		sample = append(sample, id)
	}
	return matched, sample, nil
}

func (req BatchRequest) selection(text string) query {
	q := query{text: text}
	if req.Filter != nil {
		req.Filter.where(&q)
	} else {
		q.and(`s.id = ANY `, asUUIDs(req.IDs))
	}
	return q
}

func asUUIDs(ids []uuid.UUID) uuids {
	all := make(uuids, len(ids))
	for i, id := range ids {
		all[i] = id
	}
	return all
}

// StartBatch accepts a batch operation, or finds the one that the same key
// made. It may return [ErrKeyReused].
func (c *Coordinator) StartBatch(ctx context.Context, req BatchRequest, op Operation) (_ Batch, replayed bool, err error) {
	id, err := uuid.NewV7()
	if err != nil {
		return Batch{}, false, fmt.Errorf("make id: %w", err)
	}
	matched, _, err := c.Match(ctx, req)
	if err != nil {
		return Batch{}, false, err
	}
	upTo := id // sagas that are started from now on have later ids, within the precision of clocks
	if req.Filter == nil {
		slices.SortFunc(req.IDs, func(a, b uuid.UUID) int { return bytes.Compare(a[:], b[:]) })
		req.IDs = slices.Compact(req.IDs)
		upTo = uuid.Max
	}
	err = pgx.BeginFunc(ctx, c.Pool, func(tx pgx.Tx) error {
		if req.Key != nil {
			owner, err := claimBatch(ctx, tx, req.Key, id, c.now())
			if err != nil || owner != id {
				id, replayed = owner, true
				return err
			}
		}
		return c.insertBatch(ctx, tx, id, upTo, matched, req, op)
	})
	if err != nil {
		return Batch{}, false, fmt.Errorf("start batch operation: %w", err)
	}
	c.pokeBatches()
	b, err := c.Batch(ctx, id)
	return b, replayed, err
}

// claimBatch gives a key to a batch operation, unless another one has it.
func claimBatch(ctx context.Context, tx pgx.Tx, k *IdempotencyKey, id uuid.UUID, now time.Time) (owner uuid.UUID, err error) {
	const insert = `
		INSERT INTO idempotency_key (principal, route, key, fingerprint, saga_id, created_at) VALUES ($1, $2, $3, $4, $5, $6)
		ON CONFLICT DO NOTHING`
	tag, err := tx.Exec(ctx, insert, k.Principal, k.Route, k.Key, k.Fingerprint[:], id, now)
	if err != nil || tag.RowsAffected() == 1 {
		return id, err
	}
	var fingerprint []byte
	const find = `SELECT saga_id, fingerprint FROM idempotency_key WHERE principal = $1 AND route = $2 AND key = $3`
	if err := tx.QueryRow(ctx, find, k.Principal, k.Route, k.Key).Scan(&owner, &fingerprint); err != nil {
		return uuid.Nil, err
	}
	if !bytes.Equal(fingerprint, k.Fingerprint[:]) {
		return uuid.Nil, ErrKeyReused
	}
	return owner, nil
}

func (c *Coordinator) insertBatch(ctx context.Context, tx pgx.Tx, id, upTo uuid.UUID, matched int, req BatchRequest, op Operation) error {
	const q = `
		INSERT INTO batch_operation (id, action, options, filter, ids, up_to, matched, actor, reason, status, next_at, created_at)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, 'running', clock_timestamp(), $10)`
	options, err := json.Marshal(req.Options)
	if err != nil {
		return fmt.Errorf("encode options: %w", err)
	}
	var filter *string
	var ids uuids
	if req.Filter != nil {
		text, err := json.Marshal(req.Filter)
		if err != nil {
			return fmt.Errorf("encode filter: %w", err)
		}
		s := string(text)
		filter = &s
	} else {
		ids = asUUIDs(req.IDs)
	}
	if _, err := tx.Exec(ctx, q, id, req.Action, string(options), filter, ids, upTo, matched, op.Actor, op.Reason, c.now()); err != nil {
		return err
	}
	entry, err := op.audit(req.Action, TargetBatch, id.String(), req.Options, c.now())
	if err != nil {
		return err
	}
	b := &pgx.Batch{}
	entry.queue(b)
	return tx.SendBatch(ctx, b).Close()
}

// CancelBatch stops a batch operation: what has been done stays, and what is
// just being done is finished. Asking again is not an error. It may return
// [ErrNotFound] or [ErrBatchEnded].
func (c *Coordinator) CancelBatch(ctx context.Context, id uuid.UUID, op Operation) (Batch, error) {
	entry, err := op.audit("cancel", TargetBatch, id.String(), nil, c.now())
	if err != nil {
		return Batch{}, err
	}
	err = pgx.BeginFunc(ctx, c.Pool, func(tx pgx.Tx) error {
		var status string
		switch err := tx.QueryRow(ctx, `SELECT status FROM batch_operation WHERE id = $1 FOR UPDATE`, id).Scan(&status); {
		case errors.Is(err, pgx.ErrNoRows):
			return ErrNotFound
		case err != nil:
			return err
		case status == BatchCompleted:
			return ErrBatchEnded
		case status == BatchCancelled:
			entry.Outcome = Unchanged
		}
		b := &pgx.Batch{}
		b.Queue(`UPDATE batch_operation SET status = 'cancelled', ended_at = $2 WHERE id = $1 AND status = 'running'`, id, c.now())
		entry.queue(b)
		return tx.SendBatch(ctx, b).Close()
	})
	if err != nil {
		return Batch{}, fmt.Errorf("cancel batch operation %s: %w", id, err)
	}
	return c.Batch(ctx, id)
}

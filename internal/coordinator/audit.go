package coordinator

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/skald-saga/skald/internal/saga"
)

// AuditEntry is one request of an operator that was taken: who asked for what,
// why, and what became of it. It is written in the transaction that did it.
type AuditEntry struct {
	ID       uuid.UUID
	At       time.Time
	Actor    string
	Action   string
	Reason   string
	Target   string // the kind of thing that was acted on: TargetSaga, …
	TargetID string
	Outcome  string
	Before   SagaPoint // of a saga: how it stood
	After    SagaPoint
	Batch    uuid.UUID       // the batch operation that it was part of; nil: none
	Details  json.RawMessage // what else was asked for; nil: nothing
}

// SagaPoint is a saga at one moment. Zero: there was none.
type SagaPoint struct {
	Version int64
	Status  saga.Status
}

// TargetSaga is what operators act on most of the time; see also [TargetParticipant].
const TargetSaga = "saga"

// What became of a request.
const (
	Applied   = "applied"
	Unchanged = "unchanged" // it was so already
)

// audit is the entry of what an operator asks for.
func (op Operation) audit(action, target, targetID string, details any, now time.Time) (*AuditEntry, error) {
	id, err := uuid.NewV7()
	if err != nil {
		return nil, fmt.Errorf("make audit id: %w", err)
	}
	e := &AuditEntry{
		ID: id, At: now, Actor: op.Actor, Action: action, Reason: op.Reason, Target: target, TargetID: targetID, Outcome: Applied, Batch: op.batch,
	}
	if details != nil {
		if e.Details, err = json.Marshal(details); err != nil {
			return nil, fmt.Errorf("encode what was asked for: %w", err)
		}
	}
	return e, nil
}

func (e *AuditEntry) queue(b *pgx.Batch) {
	const q = `
		INSERT INTO audit_log (id, at, actor, action, reason, target, target_id, outcome,
		                       version_before, version_after, status_before, status_after, batch_id, details)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, nullif($9, 0), nullif($10, 0), nullif($11, ''), nullif($12, ''), $13, nullif($14, '')::json)`
	var batch *[16]byte
	if e.Batch != uuid.Nil {
		batch = (*[16]byte)(&e.Batch)
	}
	b.Queue(q, e.ID, e.At, e.Actor, e.Action, e.Reason, e.Target, e.TargetID, e.Outcome,
		e.Before.Version, e.After.Version, string(e.Before.Status), string(e.After.Status), batch, string(e.Details))
}

// note writes an entry of what changed nothing.
func (c *Coordinator) note(ctx context.Context, e *AuditEntry) error {
	b := &pgx.Batch{}
	e.queue(b)
	if err := c.Pool.SendBatch(ctx, b).Close(); err != nil {
		return fmt.Errorf("write audit log: %w", err)
	}
	return nil
}

// AuditFilter selects entries; zero values select all.
type AuditFilter struct {
	Saga     string // its id
	Actor    string
	Action   string
	From, To time.Time // To is not part of it
	Before   uuid.UUID // only older ones
	Limit    int
}

// AuditLog returns what operators did, the latest first, and whether there is
// more.
func (c *Coordinator) AuditLog(ctx context.Context, f AuditFilter) ([]AuditEntry, bool, error) {
	q := query{text: `
		SELECT id, at, actor, action, reason, target, target_id, outcome, coalesce(version_before, 0), coalesce(version_after, 0),
		       coalesce(status_before, ''), coalesce(status_after, ''), batch_id, details
		FROM audit_log WHERE true`}
	if f.Saga != "" {
		q.text += ` AND target = '` + TargetSaga + `'`
		q.and(`target_id = `, f.Saga)
	}
	if f.Actor != "" {
		q.and(`actor = `, f.Actor)
	}
	if f.Action != "" {
		q.and(`action = `, f.Action)
	}
	if !f.From.IsZero() {
		q.and(`at >= `, f.From)
	}
	if !f.To.IsZero() {
		q.and(`at < `, f.To)
	}
	if f.Before != uuid.Nil {
		q.and(`id < `, f.Before)
	}
	q.text += fmt.Sprintf(` ORDER BY id DESC LIMIT %d`, f.Limit+1)
	done, err := c.reading(ctx)
	if err != nil {
		return nil, false, err
	}
	defer done()
	rows, err := c.Pool.Query(ctx, q.text, q.args...)
	if err != nil {
		return nil, false, fmt.Errorf("read audit log: %w", err)
	}
	entries, err := pgx.CollectRows(rows, scanAudit)
	if err != nil {
		return nil, false, fmt.Errorf("read audit log: %w", err)
	}
	if len(entries) > f.Limit {
		return entries[:f.Limit], true, nil
	}
	return entries, false, nil
}

func scanAudit(row pgx.CollectableRow) (e AuditEntry, err error) {
	var batch *[16]byte
	err = row.Scan((*[16]byte)(&e.ID), &e.At, &e.Actor, &e.Action, &e.Reason, &e.Target, &e.TargetID, &e.Outcome,
		&e.Before.Version, &e.After.Version, &e.Before.Status, &e.After.Status, &batch, &e.Details)
	if batch != nil {
		e.Batch = *batch
	}
	e.At = e.At.UTC()
	return e, err
}

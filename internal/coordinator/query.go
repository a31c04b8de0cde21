package coordinator

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/skald-saga/skald/internal/saga"
)

const viewColumns = `s.id, s.definition_id, s.version, s.state, s.input, s.created_at, s.updated_at,
	coalesce((SELECT r.count FROM saga_stale_reply r WHERE r.saga_id = s.id), 0),
	CASE WHEN s.status NOT IN ('running', 'completed') THEN (SELECT k.saga_id FROM idempotency_key k
		WHERE k.principal = '' AND k.route = '` + restartRoute + `' AND k.key = s.id::text) END`

// Get returns [ErrNotFound] if there is no such saga.
func (c *Coordinator) Get(ctx context.Context, id uuid.UUID) (Saga, error) {
	sagas, err := c.views(ctx, `SELECT `+viewColumns+` FROM saga s WHERE s.id = $1`, id)
	if err != nil {
		return Saga{}, fmt.Errorf("read saga %s: %w", id, err)
	}
	if len(sagas) == 0 {
		return Saga{}, ErrNotFound
	}
	return sagas[0], nil
}

// StaleReplies counts the replies to a saga that changed nothing.
func (c *Coordinator) StaleReplies(ctx context.Context, id uuid.UUID) (n int, err error) {
	done, err := c.reading(ctx)
	if err != nil {
		return 0, err
	}
	defer done()
	const q = `SELECT coalesce((SELECT count FROM saga_stale_reply WHERE saga_id = $1), 0)`
	if err := c.Pool.QueryRow(ctx, q, id).Scan(&n); err != nil {
		return 0, fmt.Errorf("count stale replies to saga %s: %w", id, err)
	}
	return n, nil
}

// reading waits for one of the connections that reads may have: half of the
// pool. However many people look at lists, starts, replies and timers go on.
func (c *Coordinator) reading(ctx context.Context) (done func(), err error) {
	select {
	case c.reads <- struct{}{}:
		return func() { <-c.reads }, nil
	case <-ctx.Done():
		return nil, fmt.Errorf("wait for other reads: %w", ctx.Err())
	}
}

// query collects conditions and their arguments.
type query struct {
	text string
	args []any
}

func (q *query) and(condition string, arg any) {
	q.args = append(q.args, arg)
	q.text += ` AND ` + condition + `($` + strconv.Itoa(len(q.args)) + `)`
}

// views reads sagas.
func (c *Coordinator) views(ctx context.Context, sql string, args ...any) ([]Saga, error) {
	done, err := c.reading(ctx)
	if err != nil {
		return nil, err
	}
	defer done()
	return c.viewsFrom(ctx, c.Pool, sql, args...)
}

// querier is the pool, or a transaction of it.
type querier interface {
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
}

func (c *Coordinator) viewsFrom(ctx context.Context, from querier, sql string, args ...any) ([]Saga, error) {
	type stored struct {
		id               uuid.UUID
		definition       int32
		version          int64
		state            []byte
		input            json.RawMessage
		created, updated time.Time
		stale            int
		restartedAs      *[16]byte
	}
	rows, err := from.Query(ctx, sql, args...)
	if err != nil {
		return nil, err
	}
	var found []stored
	var s stored
	targets := []any{(*[16]byte)(&s.id), &s.definition, &s.version, &s.state, &s.input, &s.created, &s.updated, &s.stale, &s.restartedAs}
	if _, err := pgx.ForEachRow(rows, targets, func() error {
		found = append(found, s)
		s.state, s.input, s.restartedAs = nil, nil, nil
		return nil
	}); err != nil {
		return nil, err
	}
	sagas := make([]Saga, len(found))
	for i, s := range found {
		def, err := c.definition(ctx, s.definition)
		if err != nil {
			return nil, err
		}
		state := saga.State{}
		if err := json.Unmarshal(s.state, &state); err != nil {
			return nil, fmt.Errorf("decode state of saga %s: %w", s.id, err)
		}
		state.ID, state.Input = s.id.String(), s.input
		if sagas[i], err = view(def.Definition, state, s.version, s.created.UTC(), s.updated.UTC(), s.stale); err != nil {
			return nil, err
		}
		if s.restartedAs != nil {
			sagas[i].RestartedAs = *s.restartedAs
			sagas[i].Actions = slices.DeleteFunc(sagas[i].Actions, func(a string) bool { return a == "restart" })
		}
	}
	return sagas, c.placeLocks(ctx, sagas)
}

// History returns the facts after the one with number after, and whether
// there are more than limit. It returns [ErrNotFound] if there is no such saga.
func (c *Coordinator) History(ctx context.Context, id uuid.UUID, after, limit int) ([]HistoryEvent, bool, error) {
	def, history, err := c.readHistory(ctx, id)
	if err != nil {
		return nil, false, fmt.Errorf("read history of saga %s: %w", id, err)
	}
	var events []HistoryEvent
	seq := 0
	for _, t := range history {
		for _, e := range t.Entries {
			if seq++; seq <= after {
				continue
			}
			if len(events) == limit {
				return events, true, nil
			}
			events = append(events, historyEvent(def, seq, t.Version, t.At.UTC(), e))
		}
	}
	return events, false, nil
}

// historyRow is one transition as it is stored.
type historyRow struct {
	Version int64
	At      time.Time
	Entries []saga.Entry
}

func (c *Coordinator) readHistory(ctx context.Context, id uuid.UUID) (*saga.Definition, []historyRow, error) {
	done, err := c.reading(ctx)
	if err != nil {
		return nil, nil, err
	}
	defer done()
	rows, err := c.Pool.Query(ctx, `
		SELECT s.definition_id, h.version, h.at, h.entries
		FROM saga s JOIN saga_history h ON h.saga_id = s.id WHERE s.id = $1 ORDER BY h.version`, id)
	if err != nil {
		return nil, nil, err
	}
	var (
		defID   int32
		row     historyRow
		entries []byte
		history []historyRow
	)
	if _, err := pgx.ForEachRow(rows, []any{&defID, &row.Version, &row.At, &entries}, func() error {
		row.Entries = nil
		if err := json.Unmarshal(entries, &row.Entries); err != nil {
			return fmt.Errorf("decode version %d: %w", row.Version, err)
		}
		for i := range row.Entries {
			row.Entries[i].At = row.At.UTC()
		}
		history = append(history, row)
		return nil
	}); err != nil {
		return nil, nil, err
	}
	if len(history) == 0 {
		return nil, nil, ErrNotFound
	}
	def, err := c.definition(ctx, defID)
	if err != nil {
		return nil, nil, err
	}
	return def.Definition, history, nil
}

func historyEvent(def *saga.Definition, seq int, version int64, at time.Time, e saga.Entry) HistoryEvent {
	ev := HistoryEvent{
		Seq: seq, Version: version, At: at, Type: string(e.Type), Phase: string(e.Phase), Generation: e.Generation,
		Attempt: e.Attempt, Result: e.Result, Error: e.Error, Reason: e.Reason, Actor: e.Actor, DueAt: orNil(e.DueAt), StartAt: orNil(e.StartAt), Lock: e.Lock, Payload: e.Payload, RestartOf: e.RestartOf,
	}
	if e.Step > 0 && e.Step <= len(def.Steps) {
		ev.Step = def.Steps[e.Step-1].Name
	}
	return ev
}

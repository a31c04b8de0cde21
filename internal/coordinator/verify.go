package coordinator

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/skald-saga/skald/internal/saga"
)

const verifyPage = 500

// Flaw is a saga that is not what its history says.
type Flaw struct {
	SagaID uuid.UUID
	Reason string
}

// Verify folds the history of every saga and compares the result with what is
// stored (P7). It calls each for every saga that differs and returns how many
// sagas it read. Each saga is read at one moment, so it may run while sagas do.
func (c *Coordinator) Verify(ctx context.Context, each func(Flaw)) (int, error) {
	const q = `
		SELECT s.id, s.definition_id, s.version, s.status, s.state, s.input,
		       ARRAY(SELECT h.version FROM saga_history h WHERE h.saga_id = s.id ORDER BY h.version),
		       coalesce((SELECT CASE WHEN l.held THEN 'held' WHEN l.due THEN 'lock' ELSE 'start' END FROM saga_lock l WHERE l.saga_id = s.id), ''),
		       ARRAY(SELECT json_build_object('at', h.at, 'entries', h.entries)::text FROM saga_history h WHERE h.saga_id = s.id ORDER BY h.version)
		FROM saga s WHERE s.id > $1 ORDER BY s.id LIMIT $2`
	var after uuid.UUID
	for n := 0; ; {
		rows, err := c.Pool.Query(ctx, q, after, verifyPage)
		if err != nil {
			return n, fmt.Errorf("read sagas to verify: %w", err)
		}
		found, err := pgx.CollectRows(rows, pgx.RowToStructByPos[storedSaga])
		if err != nil {
			return n, fmt.Errorf("read sagas to verify: %w", err)
		}
		for _, s := range found {
			def, err := c.definition(ctx, s.DefinitionID)
			switch {
			case errors.Is(err, ErrUnknownDefinition):
			case err != nil:
				return n, err
			case def.broken != nil:
				err = def.broken
			default:
				err = s.verify(def.Definition)
			}
			if err != nil {
				each(Flaw{SagaID: s.ID, Reason: err.Error()})
			}
			after = s.ID
		}
		if n += len(found); len(found) < verifyPage {
			return n, c.verifyLocks(ctx, each)
		}
	}
}

// storedSaga is a saga with its whole history.
type storedSaga struct {
	ID           uuid.UUID
	DefinitionID int32
	Version      int64
	Status       saga.Status
	State        []byte
	Input        json.RawMessage
	Versions     []int64
	Lock         string
	History      []string
}

func (s storedSaga) verify(def *saga.Definition) error {
	for i, v := range s.Versions {
		if v != int64(i+1) {
			return fmt.Errorf("history has version %d where %d should be", v, i+1)
		}
	}
	if s.Version != int64(len(s.Versions)) {
		return fmt.Errorf("version %d has a history of %d", s.Version, len(s.Versions))
	}
	var entries []saga.Entry
	for _, text := range s.History {
		var h historyRow
		if err := json.Unmarshal([]byte(text), &h); err != nil {
			return fmt.Errorf("decode history: %w", err)
		}
		for _, e := range h.Entries {
			e.At = h.At.UTC()
			entries = append(entries, e)
		}
	}
	folded, err := saga.Fold(def, s.ID.String(), s.Input, entries)
	if err != nil {
		return fmt.Errorf("fold history: %w", err)
	}
	state, err := json.Marshal(folded)
	if err != nil {
		return fmt.Errorf("encode state: %w", err)
	}
	if folded.Status != s.Status || !bytes.Equal(state, s.State) {
		return fmt.Errorf("the stored state is not what its history of %d transitions folds to", len(s.Versions))
	}
	return lockFlaw(folded, s.Lock)
}

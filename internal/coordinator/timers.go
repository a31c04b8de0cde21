package coordinator

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/skald-saga/skald/internal/saga"
)

// TimerID names what a saga waits for. It is made of that alone, so it stays
// the same however often the timer is moved, and is nobody's once the saga
// waits for something else.
type TimerID struct {
	Saga uuid.UUID
	saga.Awaited
}

// String is the form that ParseTimerID reads: parts that are joined by dots,
// which are in no name.
func (id TimerID) String() string {
	text := id.Saga.String() + "." + string(id.Kind)
	if id.Step == "" {
		return text
	}
	return fmt.Sprintf("%s.%s.%s.%d.%d", text, id.Step, id.Phase, id.Generation, id.Attempt)
}

// ParseTimerID reads an id; what is none is [ErrNotFound].
func ParseTimerID(text string) (TimerID, error) {
	parts := strings.Split(text, ".")
	var id TimerID
	var err error
	if len(parts) != 2 && len(parts) != 6 {
		return TimerID{}, ErrNotFound
	}
	if id.Saga, err = uuid.Parse(parts[0]); err != nil {
		return TimerID{}, ErrNotFound
	}
	id.Kind = saga.TimerKind(parts[1])
	if len(parts) == 6 {
		id.Step, id.Phase = parts[2], saga.Phase(parts[3])
		generation, errGeneration := strconv.Atoi(parts[4])
		attempt, errAttempt := strconv.Atoi(parts[5])
		if errGeneration != nil || errAttempt != nil {
			return TimerID{}, ErrNotFound
		}
		id.Generation, id.Attempt = generation, attempt
	}
	return id, nil
}

// Timer is a time that a saga waits for, as people see it.
type Timer struct {
	ID         TimerID
	Definition string
	Version    int64 // of the saga
	FireAt     time.Time
}

// TimerFilter selects timers; zero values select all.
type TimerFilter struct {
	Saga       uuid.UUID
	Definition string
	Kind       saga.TimerKind
	Before     time.Time // only those that fire before it
	After      TimerPlace
	Limit      int
}

// TimerPlace is where a page of timers has ended: the sagas stand in the order
// in which they are looked at next, each with all of its timers.
type TimerPlace struct {
	WakeAt time.Time
	Saga   uuid.UUID
	Timer  int // so many timers of that saga, of all kinds, were seen
}

// timerScan is how many sagas are looked at for one page: a filter that leaves
// little makes short pages, and no long query.
const timerScan = 500

// Timers returns timers, and where to go on if there may be more. A saga stands
// where its row in saga_timer puts it, which is due no later than its earliest
// timer. Rows are few and have an index; which of them are still good is asked
// of the saga. A saga that changes meanwhile may be seen twice, or not at all.
func (c *Coordinator) Timers(ctx context.Context, f TimerFilter) (_ []Timer, next TimerPlace, more bool, _ error) {
	q := query{text: `SELECT DISTINCT ON (t.due_at, t.saga_id) t.due_at, s.id, s.definition_id, s.version, s.state
		FROM saga_timer t JOIN saga s ON s.id = t.saga_id AND s.wake_at = t.due_at WHERE s.status IN ('running', 'compensating', 'stuck')`}
	if f.Saga != uuid.Nil {
		q.and(`t.saga_id = `, f.Saga)
	}
	if f.Definition != "" {
		q.and(`s.definition_id IN (SELECT id FROM definition WHERE name = `, f.Definition)
		q.text += `)`
	}
	if !f.Before.IsZero() {
		q.and(`t.due_at < `, f.Before)
	}
	if f.After.Saga != uuid.Nil {
		q.and(`t.due_at >= `, f.After.WakeAt)
		q.args = append(q.args, f.After.Saga)
		q.text += fmt.Sprintf(` AND (t.due_at, t.saga_id) >= ($%d, $%d)`, len(q.args)-1, len(q.args))
	}
	q.text += fmt.Sprintf(` ORDER BY t.due_at, t.saga_id LIMIT %d`, timerScan+1)
	found, err := c.waiting(ctx, q)
	if err != nil {
		return nil, TimerPlace{}, false, fmt.Errorf("list timers: %w", err)
	}
	var timers []Timer
	for n, w := range found {
		if n == timerScan {
			return timers, next, true, nil
		}
		for i, t := range w.timers {
			place := TimerPlace{w.wakeAt, w.id, i + 1}
			if w.id == f.After.Saga && w.wakeAt.Equal(f.After.WakeAt) && i < f.After.Timer {
				continue
			}
			if f.Kind != "" && f.Kind != t.ID.Kind || !f.Before.IsZero() && !t.FireAt.Before(f.Before) {
				next = place
				continue
			}
			if len(timers) == f.Limit {
				return timers, next, true, nil
			}
			timers, next = append(timers, t), place
		}
	}
	return timers, TimerPlace{}, false, nil
}

// waitingSaga is a saga that waits for times.
type waitingSaga struct {
	wakeAt time.Time
	id     uuid.UUID
	timers []Timer
}

func (c *Coordinator) waiting(ctx context.Context, q query) ([]waitingSaga, error) {
	done, err := c.reading(ctx)
	if err != nil {
		return nil, err
	}
	defer done()
	type stored struct {
		WakeAt     time.Time
		ID         uuid.UUID
		Definition int32
		Version    int64
		State      []byte
	}
	rows, err := c.Pool.Query(ctx, q.text, q.args...)
	if err != nil {
		return nil, err
	}
	found, err := pgx.CollectRows(rows, pgx.RowToStructByPos[stored])
	if err != nil {
		return nil, err
	}
	sagas := make([]waitingSaga, len(found))
	for i, s := range found {
		def, err := c.definition(ctx, s.Definition)
		if err != nil {
			return nil, err
		}
		sagas[i] = waitingSaga{wakeAt: s.WakeAt, id: s.ID}
		var state saga.State
		if err := json.Unmarshal(s.State, &state); err != nil || len(state.Steps) != len(def.Steps) {
			continue // another program's: it cannot be shown
		}
		for _, t := range saga.Timers(def.Definition, state) {
			sagas[i].timers = append(sagas[i].timers, Timer{TimerID{s.ID, t.Awaited}, def.Name, s.Version, t.FireAt.UTC()})
		}
	}
	return sagas, nil
}

// TimerAhead is how far a timer may be moved.
const TimerAhead = StartAhead

// MoveTimer moves a timer; what is moved to the past is due at once, and dealt
// with like any other. The zero time removes it, which only a deadline allows.
// It returns [ErrNotFound] if the saga does not wait for that any more,
// [ErrStartTime] if the time is too far, [ErrPrecondition] or an [*IllegalError].
func (c *Coordinator) MoveTimer(ctx context.Context, id TimerID, op Operation, at time.Time) (Timer, error) {
	if at.Sub(c.Now()) > TimerAhead {
		return Timer{}, ErrStartTime
	}
	action := "reschedule"
	if at.IsZero() {
		action = "remove-timer"
	} else {
		at = at.UTC().Truncate(time.Microsecond)
	}
	var moved Timer
	req := request{
		action: action, step: id.Step, details: moveDetails{Timer: id.String(), FireAt: at},
		event: saga.Reschedule{Timer: id.Awaited, At: at, Reason: op.Reason, Actor: op.Actor},
	}
	_, err := c.change(ctx, lockByID(ctx, uuids{id.Saga}), func(tx *transaction) error {
		r := tx.rows[id.Saga]
		if _, err := tx.operate(r, op, req); err != nil {
			return err
		}
		moved = Timer{ID: id, Definition: r.def.Name, Version: r.version}
		timers := saga.Timers(r.def.Definition, r.state)
		if i := slices.IndexFunc(timers, func(t saga.Timer) bool { return t.Awaited == id.Awaited }); i >= 0 {
			moved.FireAt = timers[i].FireAt.UTC()
		}
		return nil
	})
	var illegal *IllegalError
	switch {
	case errors.As(err, &illegal) && illegal.Code == saga.IllegalNoTimer:
		return Timer{}, ErrNotFound
	case errors.As(err, &illegal) && illegal.Code == saga.IllegalTimerNeeded:
		illegal.Allowed = []string{"reschedule"}
	}
	if err != nil {
		return Timer{}, fmt.Errorf("%s %s: %w", action, id, err)
	}
	return moved, nil
}

type moveDetails struct {
	Timer  string    `json:"timer"`
	FireAt time.Time `json:"fire_at,omitzero"`
}

package coordinator

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/skald-saga/skald/internal/outbox"
	"github.com/skald-saga/skald/internal/saga"
	"github.com/skald-saga/skald/internal/wire"
)

// row is a locked saga and what a transaction makes of it.
type row struct {
	id      uuid.UUID
	def     *definition
	version int64
	status  saga.Status
	state   saga.State
	wakeAt  time.Time // due time of its earliest timer row; zero: none
	created time.Time
	updated time.Time
	trace   wire.Trace
	sent    bool // the relay has passed its latest commands
	heldWas bool // its timer row says that it had not when last looked at

	read      guard // as it was read
	guessed   bool  // it was not read, but remembered
	broken    error // it cannot be worked on: its stored form does not fit its definition
	rearm     bool  // its timer rows are used up
	held      bool  // the new timer row remembers that the command was withheld
	history   []transition
	commands  []outbox.Message
	events    []outbox.Message
	staleSeen []staleReply
	beside    []beside
	due       time.Time // of a new timer row; zero: none is needed
	lock      lockMove  // that is still to be made
	unlocked  bool      // it has given back its lock, for which others may have waited
}

// beside is what is written with a saga, besides what every change writes.
type beside interface{ queue(b *pgx.Batch) }

// guard is what a saga's row must still be when it is overwritten: each change
// changes at least one of the three. The version alone would do if Postgres
// never forgot a commit, as a standby that was promoted may have.
type guard struct {
	version         int64
	updated, wakeAt time.Time
}

// asRead notes that the row is as the database has it.
func (r *row) asRead() { r.read = guard{r.version, r.updated, r.wakeAt} }

// changed reports whether the row is to be overwritten.
func (r *row) changed() bool {
	return r.broken == nil && (len(r.history) > 0 || !r.due.IsZero() || r.rearm)
}

// transition is one row of history.
type transition struct {
	version int64
	at      time.Time
	entries []byte
}

// transaction is one database transaction over sagas.
type transaction struct {
	c    *Coordinator
	s    session
	now  time.Time
	rows map[uuid.UUID]*row
	dead []deadLetter

	pauses *pauses // as they were known when it began
}

// lockFunc reads and locks the sagas of a transaction.
type lockFunc func(session) ([]*row, error)

// change locks sagas in one transaction, lets decide apply events to them,
// stores what came of it and commits. decide runs again if the database gave
// up for a reason that passes (a deadlock, a serialization failure), so all
// it does must be done through tx. If the outcome of the commit is unknown, an
// error is returned; the caller's events may then be applied again, which is
// harmless by the rules of the state machine.
func (c *Coordinator) change(ctx context.Context, lock lockFunc, decide func(tx *transaction) error) ([]*row, error) {
	for try := 1; ; try++ {
		rows, err := c.changeOnce(ctx, func(tx *transaction) error { return tx.lock(ctx, lock) }, decide)
		if gaveUp(err) && try < 4 {
			c.wait(ctx, time.Duration(rand.Int64N(int64(try)*int64(20*time.Millisecond))))
			continue
		}
		return rows, err
	}
}

// lockByID is for sagas that are asked for by id.
func lockByID(ctx context.Context, ids uuids) lockFunc {
	return func(s session) ([]*row, error) { return s.lock(ctx, ids) }
}

// changeKnown is change for sagas by id, of which those are not read that this
// server has changed last. Nothing is locked for them either: if another server
// was faster, the guard finds it, and all is done again from the database.
func (c *Coordinator) changeKnown(ctx context.Context, ids uuids, decide func(tx *transaction) error) ([]*row, error) {
	if c.memory.trusted(c.Now()) {
		rows, err := c.changeOnce(ctx, func(tx *transaction) error { return tx.recall(ctx, ids) }, decide)
		switch {
		case gaveUp(err):
			c.memory.distrust(c.Now())
		case !errors.Is(err, errGuess):
			return rows, err
		}
	}
	return c.change(ctx, lockByID(ctx, ids), decide)
}

// errGuess is returned by what changeKnown is to decide, if it would change
// nothing: only changes are guarded, so that must not rest on memory.
var errGuess = errors.New("decided by memory")

// gaveUp says that the database rolled back for a reason that passes.
func gaveUp(err error) bool {
	var pgErr *pgconn.PgError
	return errors.As(err, &pgErr) && strings.HasPrefix(pgErr.Code, "40")
}

func (c *Coordinator) changeOnce(ctx context.Context, find func(*transaction) error, decide func(tx *transaction) error) (_ []*row, err error) {
	if err := c.knowPauses(ctx); err != nil {
		return nil, err
	}
	s, err := c.db.session(ctx)
	if err != nil {
		return nil, err
	}
	defer func() { s.close(ctx, err != nil) }()
	tx := &transaction{c: c, s: s, now: c.now(), rows: map[uuid.UUID]*row{}, pauses: c.pauses.Load()}
	if err := find(tx); err != nil {
		return nil, err
	}
	if err := decide(tx); err != nil {
		return nil, err
	}
	if err := tx.takeLocks(ctx); err != nil {
		return nil, err
	}
	rows := tx.sorted()
	if err := s.store(ctx, rows, tx.dead); err != nil {
		return nil, fmt.Errorf("store sagas: %w", err)
	}
	c.committed(rows)
	return rows, nil
}

// lock reads and locks the sagas that it is to change.
func (tx *transaction) lock(ctx context.Context, lock lockFunc) error {
	rows, err := lock(tx.s)
	if err != nil {
		return fmt.Errorf("lock sagas: %w", err)
	}
	for _, r := range rows {
		tx.rows[r.id] = r
	}
	return tx.resolveDefinitions(ctx)
}

// recall takes sagas from memory, and reads those that are not there.
func (tx *transaction) recall(ctx context.Context, ids uuids) error {
	var missing uuids
	for _, id := range ids {
		if r := tx.c.memory.get(id); r != nil {
			r.guessed = true
			tx.rows[id] = r
		} else {
			missing = append(missing, id)
		}
	}
	if len(missing) == 0 {
		return nil
	}
	return tx.lock(ctx, lockByID(ctx, missing))
}

// decode makes of a row what the columns state and wake_at say.
func (r *row) decode(state []byte, wakeAt *time.Time) {
	input := r.state.Input
	r.broken = json.Unmarshal(state, &r.state)
	r.state.ID, r.state.Input = r.id.String(), input
	if wakeAt != nil {
		r.wakeAt = *wakeAt
	}
	r.asRead()
}

// resolveDefinitions comes after the rows are read: a definition that is not
// known yet needs a query of its own. A saga that does not fit its definition
// must not hold up the others of its batch.
func (tx *transaction) resolveDefinitions(ctx context.Context) error {
	for _, r := range tx.rows {
		if r.def.Definition != nil {
			continue
		}
		d, err := tx.c.definition(ctx, r.def.id)
		switch {
		case errors.Is(err, ErrUnknownDefinition):
			r.broken = err
		case err != nil:
			return fmt.Errorf("saga %s: %w", r.id, err)
		default:
			r.def = d
			if r.broken == nil {
				r.broken = d.broken
			}
		}
	}
	return nil
}

// apply gives one event to a locked saga.
func (tx *transaction) apply(r *row, ev saga.Event) (saga.Decision, error) {
	if r.broken != nil {
		return saga.Decision{}, r.broken
	}
	d, err := saga.Advance(r.def.Definition, r.state, ev, tx.now, tx.pauses.held(r.def.Definition)...)
	if err != nil || d.Ignored != "" || d.Illegal != "" {
		return d, err
	}
	return d, r.take(tx.c, d, tx.pauses, tx.now)
}

// take notes a decision in the row that will be stored.
func (r *row) take(c *Coordinator, d saga.Decision, p *pauses, now time.Time) error {
	entries, err := json.Marshal(d.History)
	if err != nil {
		return fmt.Errorf("encode history of saga %s: %w", r.id, err)
	}
	if r.state.Status.Ended() { // it is brought back: the timer rows that it had are used up
		r.wakeAt = time.Time{}
	}
	r.version++
	r.moveLock(r.state, d.Next)
	r.state, r.updated = d.Next, now
	r.history = append(r.history, transition{version: r.version, at: now, entries: entries})
	for _, cmd := range d.Commands {
		m, err := c.command(r, cmd)
		if err != nil {
			return err
		}
		r.commands = append(r.commands, m)
	}
	for _, e := range d.History {
		if e.Type == saga.StepHold {
			r.holdStep(p, e.Step-1)
		}
		if !r.def.Events.Has(e.Type) {
			continue
		}
		m, err := c.event(r, e)
		if err != nil {
			return err
		}
		r.events = append(r.events, m)
	}
	r.schedule(now)
	return nil
}

// schedule decides whether the saga needs another timer row: one that is due
// no later than it next wants to be looked at is enough.
func (r *row) schedule(now time.Time) {
	if r.rearm {
		r.wakeAt = time.Time{}
	}
	want := r.state.WakeAt()
	if look := now.Add(holdLook); r.state.Held() && !r.state.Paused() && (want.IsZero() || look.Before(want)) {
		want = look // the end of a pause will wake it earlier; this is for when that is missed
	}
	if r.held = r.held && !want.After(now); r.held {
		want = now.Add(min(max(now.Sub(want)/2, holdLeast), holdMost))
	}
	if !want.IsZero() && (r.wakeAt.IsZero() || want.Before(r.wakeAt)) {
		r.wakeAt, r.due, r.rearm = want, want, false
	}
}

// sorted are its sagas in the order of their ids.
func (tx *transaction) sorted() []*row {
	rows := make([]*row, 0, len(tx.rows))
	for _, r := range tx.rows {
		rows = append(rows, r)
	}
	slices.SortFunc(rows, func(a, b *row) int { return bytes.Compare(a.id[:], b.id[:]) })
	return rows
}

// committed tells whoever waits for these sagas, and the relay.
func (c *Coordinator) committed(rows []*row) {
	wake := false
	for _, r := range rows {
		c.memory.put(r)
		if len(r.history) == 0 {
			continue
		}
		wake = wake || len(r.commands)+len(r.events) > 0
		c.watch.changed(r.id, r.version, r.state.Status, func() (Saga, error) {
			return view(r.def.Definition, r.state, r.version, r.created, r.updated, 0)
		})
		if !r.due.IsZero() {
			c.pokeTimers(r.due)
		}
		if r.unlocked {
			c.pokeTimers(r.updated)
		}
		c.count(r)
	}
	if wake {
		c.Wake()
	}
}

func (c *Coordinator) count(r *row) {
	if r.state.Status == r.status {
		return
	}
	switch {
	case r.state.Status.Ended():
		c.Metrics.ended.WithLabelValues(r.def.Name, string(r.state.Status)).Inc()
		c.Metrics.duration.WithLabelValues(r.def.Name, string(r.state.Status)).Observe(r.updated.Sub(r.created).Seconds())
	case r.state.Status == saga.Stuck:
		c.Metrics.stuck.WithLabelValues(r.def.Name).Inc()
		c.Log.Error("saga is stuck and needs an operator", "saga_id", r.id, "definition", r.def.Name)
	}
}

package coordinator

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/skald-saga/skald/internal/saga"
)

// What can be paused beside single sagas.
const (
	TargetParticipant = "participant" // its new commands are withheld
	TargetDefinition  = "definition"  // all commands of its sagas are withheld
)

const (
	pausePoll   = time.Second      // how late another server's pause may be noticed
	pauseStale  = 5 * time.Second  // older knowledge of the pauses is not used
	pauseLinger = 30 * time.Second // nobody withholds anything because of a pause that ended so long ago
	holdLook    = 5 * time.Minute  // how soon to look at a saga that waits for nothing but the end of a pause
	releaseMost = 200              // sagas in one transaction
)

// Pausing is the pause of a participant or of a definition.
type Pausing struct {
	Kind, Name    string
	Since         time.Time
	Actor, Reason string
}

// pauses is what this server knows of the pauses. It never changes.
type pauses struct {
	read         time.Time
	participants []string
	definitions  map[string]bool
	over         []Pausing // what was withheld because of these is to be sent
}

// held are the participants that get no commands of a definition's sagas.
func (p *pauses) held(def *saga.Definition) []string {
	switch {
	case p == nil:
		return nil
	case p.definitions[def.Name]:
		return def.Participants()
	}
	return p.participants
}

// hold is a row that says which pause withholds something of a saga.
type hold struct {
	kind, name string
	saga       uuid.UUID
}

func (h hold) queue(b *pgx.Batch) {
	b.Queue(`INSERT INTO saga_hold (kind, name, saga_id) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING`, h.kind, h.name, h.saga)
}

// released deletes the row.
type released hold

func (h released) queue(b *pgx.Batch) {
	b.Queue(`DELETE FROM saga_hold WHERE kind = $1 AND name = $2 AND saga_id = $3`, h.kind, h.name, h.saga)
}

// holdStep notes that a pause withholds something of a saga's step.
func (r *row) holdStep(p *pauses, step int) {
	h := hold{TargetParticipant, r.def.Steps[step].Participant, r.id}
	if p != nil && p.definitions[r.def.Name] {
		h.kind, h.name = TargetDefinition, r.def.Name
	}
	r.beside = append(r.beside, h)
}

// knowPauses sees that what this server knows of the pauses is not too old.
func (c *Coordinator) knowPauses(ctx context.Context) error {
	if p := c.pauses.Load(); c.Pool == nil || (p != nil && time.Since(p.read) < pauseStale) {
		return nil
	}
	return c.readPauses(ctx)
}

func (c *Coordinator) readPauses(ctx context.Context) error {
	p := &pauses{read: time.Now()}
	rows, err := c.Pool.Query(ctx, `SELECT kind, name, resumed_at IS NOT NULL FROM pause`)
	if err != nil {
		return fmt.Errorf("read pauses: %w", err)
	}
	var kind, name string
	var over bool
	if _, err := pgx.ForEachRow(rows, []any{&kind, &name, &over}, func() error {
		switch {
		case over:
			p.over = append(p.over, Pausing{Kind: kind, Name: name})
		case kind == TargetParticipant:
			p.participants = append(p.participants, name)
		default:
			if p.definitions == nil {
				p.definitions = map[string]bool{}
			}
			p.definitions[name] = true
		}
		return nil
	}); err != nil {
		return fmt.Errorf("read pauses: %w", err)
	}
	c.pauses.Store(p)
	return nil
}

// runPauses notices the pauses that other servers begin and end, and sends what
// was withheld because of those that are over.
func (c *Coordinator) runPauses(ctx context.Context) error {
	ticker := time.NewTicker(pausePoll)
	defer ticker.Stop()
	for {
		err := c.readPauses(ctx)
		if err == nil {
			for _, p := range c.pauses.Load().over {
				err = errors.Join(err, c.release(ctx, p))
			}
		}
		if err != nil && ctx.Err() == nil {
			c.Log.WarnContext(ctx, "looking after pauses failed", "err", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
	}
}

// release sends what was withheld because of a pause that is over. When nothing
// is left, and nobody can withhold more, the pause is forgotten.
func (c *Coordinator) release(ctx context.Context, p Pausing) error {
	const find = `SELECT saga_id FROM saga_hold WHERE kind = $1 AND name = $2 AND saga_id > $3 ORDER BY saga_id LIMIT $4`
	var after uuid.UUID // each once: some stay, see releaseSagas
	left := false
	for {
		rows, err := c.Pool.Query(ctx, find, p.Kind, p.Name, after, releaseMost)
		if err != nil {
			return fmt.Errorf("find withheld sagas: %w", err)
		}
		ids, err := pgx.CollectRows(rows, pgx.RowTo[[16]byte])
		if err != nil {
			return fmt.Errorf("find withheld sagas: %w", err)
		}
		if len(ids) == 0 {
			break
		}
		stay, err := c.releaseSagas(ctx, p, ids)
		if err != nil {
			return err
		}
		after, left = ids[len(ids)-1], left || stay
	}
	if left {
		return nil
	}
	const forget = `DELETE FROM pause WHERE kind = $1 AND name = $2 AND resumed_at < clock_timestamp() - make_interval(secs => $3)`
	if _, err := c.Pool.Exec(ctx, forget, p.Kind, p.Name, pauseLinger.Seconds()); err != nil {
		return fmt.Errorf("forget pause: %w", err)
	}
	return nil
}

// releaseSagas reports whether some stay listed: those that are paused
// themselves, of which nothing can be sent yet.
func (c *Coordinator) releaseSagas(ctx context.Context, p Pausing, ids uuids) (stay bool, err error) {
	_, err = c.change(ctx, lockByID(ctx, ids), func(tx *transaction) error {
		stay = false
		for _, r := range tx.rows {
			// Whether its commands have left the outbox is not known here: no attempt must be spent.
			_, err := tx.apply(r, saga.Tick{Publication: saga.Withheld})
			if err == nil && r.state.Paused() { // before, or by its deadline just now
				stay = true
				continue
			}
			r.beside = append(r.beside, released{p.Kind, p.Name, r.id})
			if err != nil {
				c.Log.ErrorContext(ctx, "saga cannot be worked on", "saga_id", r.id, "err", err)
				continue
			}
			for i, st := range r.state.Steps {
				if st.Held { // by another pause as well
					r.holdStep(tx.pauses, i)
				}
			}
		}
		return nil
	})
	if err != nil {
		return false, fmt.Errorf("release %d sagas: %w", len(ids), err)
	}
	return stay, nil
}

// PauseParticipant withholds the new commands of a participant, whatever saga
// they are of, until [Coordinator.ResumeParticipant]. Other servers notice
// within a second. It returns [ErrNotFound] if no definition names the
// participant. Asking again is not an error.
func (c *Coordinator) PauseParticipant(ctx context.Context, name string, op Operation) (*Pausing, error) {
	return c.pauseAll(ctx, TargetParticipant, name, op)
}

// ResumeParticipant ends the pause, and sends what was withheld.
func (c *Coordinator) ResumeParticipant(ctx context.Context, name string, op Operation) error {
	return c.resumeAll(ctx, TargetParticipant, name, op)
}

// PauseDefinition withholds all commands of a definition's sagas, of every
// version, until [Coordinator.ResumeDefinition]. Sagas can be started: they wait.
// It returns [ErrNotFound] if there is no such definition.
func (c *Coordinator) PauseDefinition(ctx context.Context, name string, op Operation) (*Pausing, error) {
	return c.pauseAll(ctx, TargetDefinition, name, op)
}

// ResumeDefinition ends the pause, and sends what was withheld.
func (c *Coordinator) ResumeDefinition(ctx context.Context, name string, op Operation) error {
	return c.resumeAll(ctx, TargetDefinition, name, op)
}

func (c *Coordinator) pauseAll(ctx context.Context, kind, name string, op Operation) (*Pausing, error) {
	const q = `
		INSERT INTO pause AS p (kind, name, paused_at, actor, reason) VALUES ($1, $2, $3, $4, $5)
		ON CONFLICT (kind, name) DO UPDATE
		SET paused_at = excluded.paused_at, actor = excluded.actor, reason = excluded.reason, resumed_at = NULL WHERE p.resumed_at IS NOT NULL`
	if err := c.turnAll(ctx, "pause", kind, name, op, q, kind, name, c.now(), op.Actor, op.Reason); err != nil {
		return nil, err
	}
	return c.pausing(ctx, kind, name)
}

func (c *Coordinator) resumeAll(ctx context.Context, kind, name string, op Operation) error {
	const q = `UPDATE pause SET resumed_at = clock_timestamp() WHERE kind = $1 AND name = $2 AND resumed_at IS NULL`
	return c.turnAll(ctx, "resume", kind, name, op, q, kind, name)
}

// turnAll begins or ends a pause. The audit log is written with it.
func (c *Coordinator) turnAll(ctx context.Context, action, kind, name string, op Operation, q string, args ...any) error {
	if err := c.mayPause(ctx, kind, name); err != nil {
		return err
	}
	entry, err := op.audit(action, kind, name, nil, c.now())
	if err != nil {
		return err
	}
	err = pgx.BeginFunc(ctx, c.Pool, func(tx pgx.Tx) error {
		tag, err := tx.Exec(ctx, q, args...)
		if err != nil {
			return err
		}
		if entry.Outcome = Applied; tag.RowsAffected() == 0 {
			entry.Outcome = Unchanged
		}
		b := &pgx.Batch{}
		entry.queue(b)
		return tx.SendBatch(ctx, b).Close()
	})
	if err != nil {
		return fmt.Errorf("%s %s %s: %w", action, kind, name, err)
	}
	return c.readPauses(ctx)
}

// mayPause returns [ErrNotFound] for a name that nothing has: a typo must not
// look like a pause.
func (c *Coordinator) mayPause(ctx context.Context, kind, name string) error {
	names, err := c.Participants(ctx)
	if kind == TargetDefinition {
		names, err = c.definitionNames(ctx)
	}
	if err == nil && !slices.Contains(names, name) {
		err = ErrNotFound
	}
	return err
}

func (c *Coordinator) definitionNames(ctx context.Context) ([]string, error) {
	rows, err := c.Pool.Query(ctx, `SELECT DISTINCT name FROM definition`)
	if err != nil {
		return nil, fmt.Errorf("list definitions: %w", err)
	}
	return pgx.CollectRows(rows, pgx.RowTo[string])
}

// pausing reads one pause; nil if it is over.
func (c *Coordinator) pausing(ctx context.Context, kind, name string) (*Pausing, error) {
	all, err := c.Pauses(ctx)
	for _, p := range all {
		if p.Kind == kind && p.Name == name {
			return &p, nil
		}
	}
	return nil, err
}

// Pauses returns what is paused beside single sagas.
func (c *Coordinator) Pauses(ctx context.Context) ([]Pausing, error) {
	done, err := c.reading(ctx)
	if err != nil {
		return nil, err
	}
	defer done()
	rows, err := c.Pool.Query(ctx, `SELECT kind, name, paused_at, actor, reason FROM pause WHERE resumed_at IS NULL ORDER BY kind, name`)
	if err != nil {
		return nil, fmt.Errorf("read pauses: %w", err)
	}
	return pgx.CollectRows(rows, pgx.RowToStructByPos[Pausing])
}

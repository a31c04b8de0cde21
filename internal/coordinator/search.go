package coordinator

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/skald-saga/skald/internal/saga"
)

// SagaFilter selects sagas; zero values select all.
type SagaFilter struct {
	Statuses   []saga.Status    `json:"status,omitempty"`
	Definition string           `json:"definition,omitempty"`
	Version    int              `json:"version,omitempty"` // of the definition
	Lock       string           `json:"lock,omitempty"`    // only those that hold, or wait for, the lock of that key
	Found      []saga.Attribute `json:"-"`                 // see ByKey, ByLabel and ByInput
	Step       string           `json:"-"`                 // only those that are at a step of this name
	ErrorCode  string           `json:"-"`                 // of why they turned back, or of what is stuck
	Created    Span             `json:"-"`
	Updated    Span             `json:"-"`
	Before     uuid.UUID        `json:"-"` // only older ones
	Limit      int              `json:"-"`
}

// Span is a stretch of time: From is in it, To is not. Zero: it has no such end.
type Span struct{ From, To time.Time }

// ByKey selects sagas with a key.
func ByKey(key string) saga.Attribute { return saga.Attribute{Name: "key", Value: key} }

// ByLabel selects sagas with a label.
func ByLabel(name, value string) saga.Attribute {
	return saga.Attribute{Name: "label." + name, Value: value}
}

// ByInput selects sagas by what their definition's `search` takes from their
// input; the path is without `input.`.
func ByInput(path, value string) saga.Attribute {
	return saga.Attribute{Name: "attr." + path, Value: value}
}

// attributes are what a new saga will be found by.
func (req StartRequest) attributes(def *saga.Definition) (found []saga.Attribute) {
	if req.Name != "" {
		found = append(found, ByKey(req.Name))
	}
	for name, value := range req.Labels {
		found = append(found, ByLabel(name, value))
	}
	for _, a := range def.Attributes(req.Input) {
		found = append(found, ByInput(a.Name, a.Value))
	}
	return found
}

// queueAttributes writes nothing for sagas that have none.
func queueAttributes(b *pgx.Batch, jobs []*startJob) {
	const q = `INSERT INTO saga_attribute (saga_id, name, value) SELECT * FROM unnest($1::uuid[], $2::text[], $3::text[])`
	var (
		ids           uuids
		names, values []string
	)
	for _, job := range jobs {
		for _, a := range job.found {
			ids, names, values = append(ids, job.row.id), append(names, a.Name), append(values, a.Value)
		}
	}
	if len(ids) > 0 {
		b.Queue(q, ids, names, values)
	}
}

// lookAt is how many sagas a page looks at, at most, however few of them are
// wanted: what a list costs does not depend on how many sagas there are.
const lookAt = 10_000

// List returns sagas, newest first, and where the next page begins; the nil id
// if there is nothing more. A page may hold fewer than the limit, even none,
// and not be the last: it ends where it has looked at enough. Ids are in order
// of creation, so a page stays where it was while new sagas come in.
func (c *Coordinator) List(ctx context.Context, f SagaFilter) (sagas []Saga, next uuid.UUID, err error) {
	var steps stepPlaces
	if f.Step != "" {
		if steps, err = c.placesOf(ctx, f.Step); err != nil {
			return nil, uuid.Nil, fmt.Errorf("list sagas: %w", err)
		}
	}
	done, err := c.reading(ctx)
	if err != nil {
		return nil, uuid.Nil, err
	}
	defer done()
	// One snapshot, so that the second statement sees what the first has looked at.
	err = pgx.BeginTxFunc(ctx, c.Pool, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, oneByOne); err != nil {
			return err
		}
		list := f.list(steps, lookAt)
		if sagas, err = c.viewsFrom(ctx, tx, list.text, list.args...); err != nil {
			return err
		}
		if len(sagas) > f.Limit {
			sagas, next = sagas[:f.Limit], sagas[f.Limit-1].ID
			return nil
		}
		next, err = f.lastLookedAt(ctx, tx)
		return err
	})
	if err != nil {
		return nil, uuid.Nil, fmt.Errorf("list sagas: %w", err)
	}
	return sagas, next, nil
}

// oneByOne makes Postgres go down through the candidates, whatever it knows of
// the tables: other ways begin with all of them.
const oneByOne = `SET LOCAL enable_seqscan = off; SET LOCAL enable_hashjoin = off; SET LOCAL enable_mergejoin = off`

// lastLookedAt is the saga at which a page that is not full stopped looking;
// the nil id if it looked at all of them.
func (f SagaFilter) lastLookedAt(ctx context.Context, tx pgx.Tx) (id uuid.UUID, err error) {
	q := f.candidates(lookAt)
	q.text = `SELECT id FROM (` + q.text + fmt.Sprintf(`) c ORDER BY id DESC OFFSET %d`, lookAt-1)
	err = tx.QueryRow(ctx, q.text, q.args...).Scan((*[16]byte)(&id))
	if errors.Is(err, pgx.ErrNoRows) {
		return uuid.Nil, nil
	}
	return id, err
}

// list is the query for a page: it goes down through the candidates and stops
// when the page is full.
func (f SagaFilter) list(steps stepPlaces, limit int) query {
	q := f.candidates(limit)
	// Each saga is looked up for its candidate: a plan the other way round would
	// look at all sagas, and take it for the cheaper one if it expects to find none.
	q.text = `SELECT ` + viewColumns + ` FROM (` + q.text + `) c CROSS JOIN LATERAL (SELECT * FROM saga WHERE saga.id = c.id OFFSET 0) s WHERE true`
	f.where(&q)
	if f.Step != "" {
		steps.where(&q)
	}
	q.text += fmt.Sprintf(` ORDER BY c.id DESC LIMIT %d`, f.Limit+1)
	return q
}

// candidates are the ids, newest first and at most limit of them, of what may
// be in the list: read from the smallest table that has all that can be.
func (f SagaFilter) candidates(limit int) query {
	var q query
	id := "s.saga_id"
	switch {
	case len(f.Found) > 0:
		q.text = `SELECT s.saga_id AS id FROM saga_attribute s WHERE true`
		q.and(`s.name = `, f.Found[0].Name)
		q.and(`s.value = `, f.Found[0].Value)
	case f.Lock != "":
		q.text = `SELECT s.saga_id AS id FROM saga_lock s WHERE true`
		q.and(`s.key = `, f.Lock)
	case f.only(saga.Stuck):
		q.text = `SELECT s.saga_id AS id FROM saga_waiting s WHERE true`
	case f.Step != "", f.only(saga.Stuck, saga.Running, saga.Compensating):
		q.text = `SELECT s.saga_id AS id FROM (` + openSagas + `) s WHERE true`
	default:
		id = "s.id"
		q.text = `SELECT s.id FROM saga s WHERE true`
	}
	if f.Before != uuid.Nil {
		q.and(id+` < `, f.Before)
	}
	if !f.Created.From.IsZero() {
		q.and(id+` >= `, idAt(f.Created.From.Add(-clockSlack)))
	}
	if to := earlier(f.Created.To, f.Updated.To); !to.IsZero() { // nothing was changed before it was created
		q.and(id+` < `, idAt(to.Add(clockSlack)))
	}
	q.text += fmt.Sprintf(` ORDER BY 1 DESC LIMIT %d`, limit)
	return q
}

// clockSlack is how far the time in a saga's id may be from its created_at.
const clockSlack = time.Minute

// idAt is the least UUIDv7 of a time.
func idAt(t time.Time) uuid.UUID {
	var id uuid.UUID
	binary.BigEndian.PutUint64(id[:8], uint64(max(t.UnixMilli(), 0))<<16)
	return id
}

func earlier(a, b time.Time) time.Time {
	if a.IsZero() || (!b.IsZero() && b.Before(a)) {
		return b
	}
	return a
}

// only reports whether just some of these statuses are asked for.
func (f SagaFilter) only(statuses ...saga.Status) bool {
	for _, asked := range f.Statuses {
		among := false
		for _, status := range statuses {
			among = among || status == asked
		}
		if !among {
			return false
		}
	}
	return len(f.Statuses) > 0
}

// where adds the conditions that a saga s must meet.
func (f SagaFilter) where(q *query) {
	if len(f.Statuses) > 0 {
		q.and(`s.status = ANY `, f.Statuses)
	}
	if f.Definition != "" {
		q.and(`s.definition_id IN (SELECT id FROM definition WHERE name = `, f.Definition)
		q.text += `)`
	}
	if f.Version != 0 {
		q.and(`s.definition_id IN (SELECT id FROM definition WHERE version = `, f.Version)
		q.text += `)`
	}
	if f.Lock != "" {
		q.and(`s.id IN (SELECT saga_id FROM saga_lock WHERE key = `, f.Lock)
		q.text += `)`
	}
	for i, a := range f.Found {
		if i > 0 {
			q.and(`EXISTS (SELECT FROM saga_attribute a WHERE a.saga_id = s.id AND a.name = `, a.Name)
			q.and(`a.value = `, a.Value)
			q.text += `)`
		}
	}
	if f.ErrorCode != "" {
		q.and(`(s.state -> 'cause' ->> 'code' = `, f.ErrorCode)
		q.text += ` OR (s.status = 'stuck' AND EXISTS (SELECT FROM json_array_elements(s.state -> 'steps') x WHERE x ->> 's' = 'stuck' AND x -> 'e' ->> 'code' = $` +
			fmt.Sprint(len(q.args)) + `)))`
	}
	for column, span := range map[string]Span{"s.created_at": f.Created, "s.updated_at": f.Updated} {
		if !span.From.IsZero() {
			q.and(column+` >= `, span.From)
		}
		if !span.To.IsZero() {
			q.and(column+` < `, span.To)
		}
	}
}

// stepPlaces are where steps of one name stand in the definitions.
type stepPlaces struct {
	definitions []int32
	steps       []int32 // from 0
}

// placesOf finds the steps of a name in all versions of all definitions.
func (c *Coordinator) placesOf(ctx context.Context, step string) (stepPlaces, error) {
	var p stepPlaces
	rows, err := c.Pool.Query(ctx, `SELECT id FROM definition`)
	if err != nil {
		return p, err
	}
	ids, err := pgx.CollectRows(rows, pgx.RowTo[int32])
	if err != nil {
		return p, err
	}
	for _, id := range ids {
		d, err := c.definition(ctx, id)
		if err != nil {
			return p, err
		}
		if i := d.Index(step); i >= 0 {
			p.definitions, p.steps = append(p.definitions, id), append(p.steps, int32(i))
		}
	}
	return p, nil
}

func (p stepPlaces) where(q *query) {
	q.args = append(q.args, p.definitions, p.steps)
	q.text += strings.NewReplacer("$a", fmt.Sprint("$", len(q.args)-1), "$b", fmt.Sprint("$", len(q.args))).Replace(`
		AND s.status IN ('running', 'compensating', 'stuck') AND EXISTS (SELECT FROM unnest($a::int[], $b::int[]) p (definition, step)
			WHERE p.definition = s.definition_id AND s.state -> 'steps' -> p.step ->> 's' IN ('running', 'compensating', 'held', 'stuck'))`)
}

package coordinator

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/skald-saga/skald/internal/saga"
	"github.com/skald-saga/skald/internal/wire"
)

// StartRequest asks for a new saga.
type StartRequest struct {
	Definition string
	Version    int // 0: the current one
	Input      json.RawMessage
	Order      *Order          // the order that the saga is about; nil for plain sagas
	Key        *IdempotencyKey // nil: every request is a new saga
	Trace      wire.Trace      // every message of the saga carries it

	again *saga.Origin // nil: it takes up no other saga
}

// IdempotencyKey makes repetitions of a request harmless. Keys are kept apart
// by principal and route; Fingerprint is a hash of the whole request.
type IdempotencyKey struct {
	Principal, Route, Key string
	Fingerprint           [32]byte
}

// Started is the answer to a start.
type Started struct {
	Saga     Saga
	Replayed bool // the key was known: this is the saga it made, as it now stands
}

// startJob is a start on its way through the writer.
type startJob struct {
	row   *row
	order *Order
	key   *IdempotencyKey
	done  chan startResult // of capacity 1: the writer never waits for a caller
}

type startResult struct {
	replayOf uuid.UUID // not nil: the key belongs to this saga
	err      error
}

// Start creates a saga and writes its first commands, or finds the one that
// the same key made. It returns [ErrUnknownDefinition], [ErrKeyReused],
// [ErrOverloaded] or an [*InputError].
//
// Concurrent calls share transactions. If ctx ends while the saga is being
// written, it may have been started all the same: repeat with the same key.
func (c *Coordinator) Start(ctx context.Context, req StartRequest) (Started, error) {
	def, err := c.named(ctx, req.Definition, req.Version)
	if err != nil {
		return Started{}, err
	}
	job, err := c.newStart(def, req)
	if err != nil {
		return Started{}, err
	}
	select {
	case c.starts <- job:
		c.Metrics.waiting.Inc()
	default:
		c.Metrics.refused.Inc()
		return Started{}, ErrOverloaded
	}
	select {
	case res := <-job.done:
		return c.started(ctx, job, res)
	case <-ctx.Done():
		return Started{}, ctx.Err()
	case <-c.stopped:
		// The writer answers what it has taken before it stops.
		select {
		case res := <-job.done:
			return c.started(ctx, job, res)
		default:
			return Started{}, ErrStopped
		}
	}
}

func (c *Coordinator) newStart(def *definition, req StartRequest) (*startJob, error) {
	id, err := newID()
	if err != nil {
		return nil, err
	}
	now := c.now()
	d, err := req.begin(def.Definition, id.String(), now)
	if err != nil {
		return nil, err
	}
	r := &row{id: id, def: def, created: now, trace: req.Trace}
	if err := r.take(c, d, now); err != nil {
		return nil, err
	}
	r.lookBy(now.Add(soonest(def.Steps)))
	return &startJob{row: r, order: req.Order, key: req.Key, done: make(chan startResult, 1)}, nil
}

// lookBy makes a saga's first timer row early enough for its later steps too:
// one row too early costs less than one more at each of them.
func (r *row) lookBy(due time.Time) {
	if !r.due.IsZero() && due.Before(r.due) {
		r.due, r.wakeAt = due, due
	}
}

// soonest is the shortest wait for a reply.
func soonest(steps []saga.Step) time.Duration {
	return slices.MinFunc(steps, func(a, b saga.Step) int { return cmp.Compare(a.Timeout, b.Timeout) }).Timeout
}

func (c *Coordinator) started(ctx context.Context, job *startJob, res startResult) (Started, error) {
	if res.err != nil {
		return Started{}, res.err
	}
	if res.replayOf != uuid.Nil {
		s, err := c.Get(ctx, res.replayOf)
		return Started{Saga: s, Replayed: true}, err
	}
	r := job.row
	s, err := view(r.def.Definition, r.state, r.version, r.created, r.updated, 0)
	return Started{Saga: s}, err
}

const startBatch = 256 // most starts in one transaction

// runStarts is the writer: it takes what is waiting, without a timer, so that
// one start alone goes out at once and many share a transaction.
func (c *Coordinator) runStarts(ctx context.Context) error {
	batch := make([]*startJob, 0, startBatch)
	for {
		select {
		case <-ctx.Done():
			for { // what is queued is answered before the writer goes
				select {
				case job := <-c.starts:
					c.Metrics.waiting.Dec()
					job.done <- startResult{err: ErrStopped}
				default:
					return nil
				}
			}
		case job := <-c.starts:
			batch = append(batch[:0], job)
		}
	gather:
		for len(batch) < startBatch {
			select {
			case job := <-c.starts:
				batch = append(batch, job)
			default:
				break gather
			}
		}
		c.Metrics.waiting.Sub(float64(len(batch)))
		c.write(ctx, batch)
	}
}

// write stores a batch of starts in one transaction and answers each. A start
// that the database refuses is set apart by bisecting: it fails alone.
func (c *Coordinator) write(ctx context.Context, jobs []*startJob) {
	// A caller that goes away, or a server that drains, must not cut a commit.
	work, cancel := context.WithTimeout(context.WithoutCancel(ctx), 30*time.Second)
	defer cancel()
	results, err := c.writeStarts(work, jobs)
	switch {
	case err == nil:
		c.Metrics.batch.WithLabelValues("starts").Observe(float64(len(jobs)))
		c.announce(jobs, results)
		for i, job := range jobs {
			job.done <- results[i]
		}
	case isDataError(err) && len(jobs) > 1:
		c.write(ctx, jobs[:len(jobs)/2])
		c.write(ctx, jobs[len(jobs)/2:])
	default:
		if isDataError(err) {
			// The database's words may quote the caller's values: they go to the log.
			c.Log.WarnContext(ctx, "a start cannot be stored", "saga_id", jobs[0].row.id, "err", err)
			err = &InputError{Problems: []InputProblem{{Pointer: "#", Detail: "holds a value that cannot be stored"}}}
		}
		for _, job := range jobs {
			job.done <- startResult{err: fmt.Errorf("start saga %s: %w", job.row.id, err)}
		}
	}
}

func (c *Coordinator) announce(jobs []*startJob, results []startResult) {
	var rows []*row
	for i, job := range jobs {
		if results[i] == (startResult{}) {
			c.Metrics.started.WithLabelValues(job.row.def.Name).Inc()
			rows = append(rows, job.row)
		}
	}
	c.committed(rows)
}

// writeStarts decides who wins each key and stores the winners.
func (c *Coordinator) writeStarts(ctx context.Context, jobs []*startJob) (_ []startResult, err error) {
	conn, err := c.Pool.Acquire(ctx)
	if err != nil {
		return nil, fmt.Errorf("acquire connection: %w", err)
	}
	defer conn.Release()
	defer func() {
		if err != nil {
			rollback(ctx, conn)
		}
	}()
	results := make([]startResult, len(jobs))
	b := &pgx.Batch{}
	b.Queue(begin)
	if owners, keyed := keyOwners(jobs); keyed {
		if err := claimKeys(ctx, conn, b, owners, c.now()); err != nil {
			return nil, err
		}
		if err := readLosers(ctx, conn, jobs, owners, results); err != nil {
			return nil, err
		}
		b = &pgx.Batch{}
	}
	var winners []*startJob
	for i, job := range jobs {
		if results[i] == (startResult{}) {
			winners = append(winners, job)
		}
	}
	queueStarts(b, winners)
	b.Queue(commit)
	if err := conn.SendBatch(ctx, b).Close(); err != nil {
		return nil, fmt.Errorf("store starts: %w", err)
	}
	return results, nil
}

// keyOf is the identity of a key.
type keyOf struct{ principal, route, key string }

// owner is the saga that a key belongs to.
type owner struct {
	sagaID      uuid.UUID
	fingerprint []byte
}

func (k *IdempotencyKey) identity() keyOf { return keyOf{k.Principal, k.Route, k.Key} }

// keyOwners gives each key of a batch to the first job that carries it.
func keyOwners(jobs []*startJob) (owners map[keyOf]owner, keyed bool) {
	for _, job := range jobs {
		if job.key == nil {
			continue
		}
		if owners == nil {
			owners = map[keyOf]owner{}
		}
		if _, taken := owners[job.key.identity()]; !taken {
			owners[job.key.identity()] = owner{job.row.id, job.key.Fingerprint[:]}
		}
	}
	return owners, owners != nil
}

// claimKeys inserts the keys in sorted order, so that two servers with the
// same keys wait for each other instead of deadlocking. Keys that others hold
// are marked by a nil saga id.
func claimKeys(ctx context.Context, conn *pgxpool.Conn, b *pgx.Batch, owners map[keyOf]owner, now time.Time) error {
	const insert = `
		INSERT INTO idempotency_key (principal, route, key, fingerprint, saga_id, created_at)
		SELECT u.*, $6 FROM unnest($1::text[], $2::text[], $3::text[], $4::bytea[], $5::uuid[]) AS u
		ON CONFLICT DO NOTHING RETURNING saga_id`
	keys := sortedKeys(owners)
	var (
		principals, routes, names []string
		fingerprints              [][]byte
		ids                       uuids
	)
	for _, k := range keys {
		o := owners[k]
		principals, routes, names = append(principals, k.principal), append(routes, k.route), append(names, k.key)
		fingerprints, ids = append(fingerprints, o.fingerprint), append(ids, o.sagaID)
	}
	won := map[uuid.UUID]bool{}
	b.Queue(insert, principals, routes, names, fingerprints, ids, now).Query(func(rows pgx.Rows) error {
		var id uuid.UUID
		_, err := pgx.ForEachRow(rows, []any{&id}, func() error { won[id] = true; return nil })
		return err
	})
	if err := conn.SendBatch(ctx, b).Close(); err != nil {
		return fmt.Errorf("claim idempotency keys: %w", err)
	}
	for k, o := range owners {
		if !won[o.sagaID] {
			owners[k] = owner{}
		}
	}
	return nil
}

func sortedKeys(owners map[keyOf]owner) []keyOf {
	keys := make([]keyOf, 0, len(owners))
	for k := range owners {
		keys = append(keys, k)
	}
	slices.SortFunc(keys, func(a, b keyOf) int {
		return cmp.Or(cmp.Compare(a.principal, b.principal), cmp.Compare(a.route, b.route), cmp.Compare(a.key, b.key))
	})
	return keys
}

// readLosers looks up the keys that others hold - in a statement of its own,
// because only a new snapshot sees what they committed while the insert
// waited - and fills in the results of all jobs that do not start a saga.
func readLosers(ctx context.Context, conn *pgxpool.Conn, jobs []*startJob, owners map[keyOf]owner, results []startResult) error {
	const find = `SELECT fingerprint, saga_id FROM idempotency_key WHERE principal = $1 AND route = $2 AND key = $3`
	b := &pgx.Batch{}
	for k, o := range owners {
		if o.sagaID != uuid.Nil {
			continue
		}
		b.Queue(find, k.principal, k.route, k.key).QueryRow(func(r pgx.Row) error {
			err := r.Scan(&o.fingerprint, &o.sagaID)
			owners[k] = o
			return err
		})
	}
	if b.Len() > 0 {
		if err := conn.SendBatch(ctx, b).Close(); err != nil {
			return fmt.Errorf("look up idempotency keys: %w", err)
		}
	}
	for i, job := range jobs {
		if job.key == nil {
			continue
		}
		o := owners[job.key.identity()]
		switch {
		case o.sagaID == job.row.id:
		case !bytes.Equal(o.fingerprint, job.key.Fingerprint[:]):
			results[i].err = ErrKeyReused
		default:
			results[i].replayOf = o.sagaID
		}
	}
	return nil
}

// queueStarts stores new sagas; the outbox rows come last.
func queueStarts(b *pgx.Batch, jobs []*startJob) {
	const insertSagas = `
		INSERT INTO saga (id, definition_id, version, status, state, input, command_xid, wake_at, created_at, updated_at,
		                  traceparent, tracestate)
		SELECT u.id, u.definition_id, u.version, u.status, u.state, u.input, pg_current_xact_id(), u.wake_at, u.created_at, u.created_at AS updated_at,
		       nullif(u.traceparent, ''), nullif(u.tracestate, '')
		FROM unnest($1::uuid[], $2::int[], $3::bigint[], $4::text[], $5::json[], $6::json[], $7::timestamptz[], $8::timestamptz[],
		            $9::text[], $10::text[])
		  AS u (id, definition_id, version, status, state, input, wake_at, created_at, traceparent, tracestate)`
	if len(jobs) == 0 {
		return
	}
	var (
		ids                    uuids
		definitions            []int32
		version                []int64
		status, states, inputs []string
		wakeAt                 []*time.Time
		created                []time.Time
		parents, traceStates   []string
		rows                   []*row
	)
	for _, job := range jobs {
		r := job.row
		state, err := json.Marshal(r.state)
		if err != nil { // cannot be, see queueUpdate
			state = []byte(err.Error())
		}
		ids, definitions, version = append(ids, r.id), append(definitions, r.def.id), append(version, r.version)
		status, states, inputs = append(status, string(r.state.Status)), append(states, string(state)), append(inputs, string(r.state.Input))
		wakeAt, created, rows = append(wakeAt, orNil(r.wakeAt)), append(created, r.created), append(rows, r)
		parents, traceStates = append(parents, r.trace.Parent), append(traceStates, r.trace.State)
	}
	b.Queue(insertSagas, ids, definitions, version, status, states, inputs, wakeAt, created, parents, traceStates)
	queueOrders(b, jobs)
	queueHistory(b, rows)
	queueTimers(b, rows)
	queueMessages(b, rows)
}

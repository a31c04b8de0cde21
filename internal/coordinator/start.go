package coordinator

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/skald-saga/skald/internal/saga"
	"github.com/skald-saga/skald/internal/wire"
)

// StartRequest asks for a new saga.
type StartRequest struct {
	Definition string
	Version    int // 0: the current one
	Input      json.RawMessage
	StartAt    time.Time         // before this its steps do not begin; zero: at once
	Order      *Order            // the order that the saga is about; nil for plain sagas
	Key        *IdempotencyKey   // nil: every request is a new saga
	Trace      wire.Trace        // every message of the saga carries it
	Name       string            // the key that people know the saga by, which many may have; empty: none
	Labels     map[string]string // what people file the saga under

	again saga.Origin // zero: it takes up no other saga
	audit *AuditEntry // of the operator's request that this is; nil: it is none
}

// How far a start time may lie in the past, where it means at once: clocks
// differ and requests take time; and how far in the future.
const (
	StartLate  = 5 * time.Minute
	StartAhead = 366 * 24 * time.Hour
)

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
	found []saga.Attribute // what the saga is found by
	done  chan startResult // of capacity 1: the writer never waits for a caller

	waiting *row // what row was before its lock was granted; nil: it needs none
}

type startResult struct {
	replayOf uuid.UUID // not nil: the key belongs to this saga
	err      error
}

// Start creates a saga and writes its first commands, or finds the one that
// the same key made. It returns [ErrUnknownDefinition], [ErrDeprecated],
// [ErrStartTime], [ErrKeyReused], [ErrOverloaded], [ErrOutboxFull] or an
// [*InputError].
//
// Concurrent calls share transactions. If ctx ends while the saga is being
// written, it may have been started all the same: repeat with the same key.
func (c *Coordinator) Start(ctx context.Context, req StartRequest) (Started, error) {
	job, err := c.prepare(ctx, req)
	if err != nil {
		s, err := c.refuse(ctx, req.Key, err)
		if errors.Is(err, ErrOutboxFull) {
			c.Metrics.refused.WithLabelValues("outbox").Inc()
		}
		return s, err
	}
	select {
	case c.starts <- job:
		c.Metrics.waiting.Inc()
	default:
		c.Metrics.refused.WithLabelValues("queue").Inc()
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

// prepare makes the first decision of a saga.
func (c *Coordinator) prepare(ctx context.Context, req StartRequest) (*startJob, error) {
	if !c.admits(req) {
		return nil, ErrOutboxFull
	}
	def, err := c.startable(ctx, req.Definition, req.Version)
	if err != nil {
		return nil, err
	}
	if late := c.Now().Sub(req.StartAt); !req.StartAt.IsZero() && (late > StartLate || late < -StartAhead) {
		return nil, ErrStartTime
	}
	if err := def.fits(req.Input); err != nil {
		return nil, err
	}
	if err := c.knowPauses(ctx); err != nil {
		return nil, err
	}
	return c.newStart(def, req)
}

// refuse answers a start that cannot be: unless the key has made a saga before,
// when the same request could. A definition may have gone since, and a start
// time have passed.
func (c *Coordinator) refuse(ctx context.Context, key *IdempotencyKey, why error) (Started, error) {
	if key == nil {
		return Started{}, why
	}
	const find = `SELECT saga_id FROM idempotency_key WHERE principal = $1 AND route = $2 AND key = $3 AND fingerprint = $4`
	var id uuid.UUID
	switch err := c.Pool.QueryRow(ctx, find, key.Principal, key.Route, key.Key, key.Fingerprint[:]).Scan(&id); {
	case errors.Is(err, pgx.ErrNoRows):
		return Started{}, why
	case err != nil:
		return Started{}, fmt.Errorf("look up idempotency key: %w", err)
	}
	s, err := c.Get(ctx, id)
	return Started{Saga: s, Replayed: true}, err
}

func (c *Coordinator) newStart(def *definition, req StartRequest) (*startJob, error) {
	id, err := c.newSagaID()
	if err != nil {
		return nil, err
	}
	now := c.now()
	held := c.pauses.Load()
	opening := saga.Opening{StartAt: req.StartAt.UTC().Truncate(time.Microsecond), Again: req.again, Key: req.Name, Labels: req.Labels, Held: held.held(def.Definition)}
	d, err := saga.StartWith(def.Definition, id.String(), req.Input, opening, now)
	var noKey *saga.LockError
	if errors.As(err, &noKey) {
		c.Log.Info("a start was refused", "definition", def.Name, "err", err)
		return nil, &InputError{Problems: []InputProblem{{Detail: "gives no key to the definition's lock `" + noKey.Expression + "`"}}}
	}
	if err != nil {
		return nil, err
	}
	r := &row{id: id, def: def, created: now, trace: req.Trace}
	if req.audit != nil {
		entry := *req.audit
		entry.restartedAs(id)
		r.beside = append(r.beside, &entry)
	}
	if err := r.take(c, d, held, now); err != nil {
		return nil, err
	}
	if r.state.WaitsFor() == "" {
		r.lookBy(now.Add(soonest(def.Steps)))
	}
	job := &startJob{row: r, order: req.Order, key: req.Key, found: req.attributes(def.Definition), done: make(chan startResult, 1)}
	if r.lock != lockStays {
		waiting := *r
		job.waiting = &waiting
	}
	return job, nil
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
	if err == nil && s.WaitsFor == saga.ForLock {
		s, err = c.Get(ctx, r.id) // and who holds it
	}
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
			err = &InputError{Problems: []InputProblem{{Detail: "holds a value that cannot be stored"}}}
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
	s, err := c.db.session(ctx)
	if err != nil {
		return nil, err
	}
	defer func() { s.close(ctx, err != nil) }()
	results := make([]startResult, len(jobs))
	if owners, keyed := keyOwners(jobs); keyed {
		if err := s.claim(ctx, owners, c.now()); err != nil {
			return nil, fmt.Errorf("claim idempotency keys: %w", err)
		}
		judgeKeys(jobs, owners, results)
	}
	winners := make([]*startJob, 0, len(jobs))
	for i, job := range jobs {
		if results[i] == (startResult{}) {
			winners = append(winners, job)
		}
	}
	if err := c.takeLocks(ctx, s, winners); err != nil {
		return nil, err
	}
	if err := s.create(ctx, winners); err != nil {
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

// judgeKeys fills in the results of the jobs that do not start a saga, because
// their keys belong to another.
func judgeKeys(jobs []*startJob, owners map[keyOf]owner, results []startResult) {
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
}

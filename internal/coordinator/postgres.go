package coordinator

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// postgres is the database that programs have.
type postgres struct{ pool *pgxpool.Pool }

// pgSession is a transaction on one connection. Its statements travel in two
// pipelines: begin and lock, or claim; then write and commit. If there is
// nothing to lock or to claim there is only the second, which begins as well.
type pgSession struct {
	conn  *pgxpool.Conn
	begun bool
}

const (
	begin  = `BEGIN ISOLATION LEVEL READ COMMITTED`
	commit = `COMMIT`

	sagaColumns = `s.id, s.definition_id, s.version, s.status, s.state, s.input, s.wake_at, s.created_at, s.updated_at,
		coalesce(s.traceparent, ''), coalesce(s.tracestate, '')`

	// Sagas are found by their ids, whatever Postgres knows of the table. A plan
	// that was made while it was small would read all of it, and is kept.
	byIndex = `SET LOCAL enable_seqscan = off`
)

func (db postgres) session(ctx context.Context) (session, error) {
	conn, err := db.pool.Acquire(ctx)
	if err != nil {
		return nil, fmt.Errorf("acquire connection: %w", err)
	}
	return &pgSession{conn: conn}, nil
}

// close rolls back if that is needed, which leaves the connection usable; if it
// cannot, the pool drops it.
func (s *pgSession) close(ctx context.Context, failed bool) {
	if failed {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		defer cancel()
		_, _ = s.conn.Exec(ctx, `ROLLBACK`)
	}
	s.conn.Release()
}

// begin is a batch that begins the transaction, unless one before it did.
func (s *pgSession) begin() *pgx.Batch {
	b := &pgx.Batch{}
	if !s.begun {
		b.Queue(begin)
		s.begun = true
	}
	return b
}

// lock takes the locks in the order of ids, which keeps two batches from
// waiting for each other.
func (s *pgSession) lock(ctx context.Context, ids uuids) ([]*row, error) {
	return s.query(ctx, `SELECT `+sagaColumns+`, true, false FROM saga s WHERE s.id = ANY($1) ORDER BY s.id FOR UPDATE`, ids)
}

func (s *pgSession) lockDue(ctx context.Context, now time.Time, limit int) ([]*row, error) {
	return s.query(ctx, lockDue, now, limit)
}

func (s *pgSession) query(ctx context.Context, query string, args ...any) (found []*row, err error) {
	b := s.begin()
	b.Queue(byIndex)
	b.Queue(query, args...).Query(func(rows pgx.Rows) error {
		found, err = scan(rows)
		return err
	})
	return found, s.conn.SendBatch(ctx, b).Close()
}

func scan(rows pgx.Rows) (found []*row, _ error) {
	for rows.Next() {
		var (
			r      row
			defID  int32
			state  []byte
			wakeAt *time.Time
		)
		if err := rows.Scan((*[16]byte)(&r.id), &defID, &r.version, &r.status, &state, &r.state.Input, &wakeAt,
			&r.created, &r.updated, &r.trace.Parent, &r.trace.State, &r.sent, &r.heldWas); err != nil {
			return nil, err
		}
		r.decode(state, wakeAt)
		r.def = &definition{id: defID}
		found = append(found, &r)
	}
	return found, rows.Err()
}

// store writes the sagas' rows first, which locks them, and the outbox rows
// last: their order in the sequence is then the commit order of each saga.
func (s *pgSession) store(ctx context.Context, rows []*row, dead []deadLetter) error {
	fresh := !s.begun
	b := s.begin()
	if fresh {
		b.Queue(byIndex)
	}
	queueUpdate(b, rows)
	queueHistory(b, rows)
	queueTimers(b, rows)
	queueLocks(b, rows, nil)
	queueStale(b, rows)
	queueDead(b, dead)
	queueBeside(b, rows)
	queueMessages(b, rows)
	b.Queue(commit)
	return s.conn.SendBatch(ctx, b).Close()
}

func (s *pgSession) create(ctx context.Context, starts []*startJob) error {
	b := s.begin()
	queueStarts(b, starts)
	b.Queue(commit)
	return s.conn.SendBatch(ctx, b).Close()
}

// claim inserts the keys in sorted order, so that two servers with the same
// keys wait for each other instead of deadlocking.
func (s *pgSession) claim(ctx context.Context, owners map[keyOf]owner, now time.Time) error {
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
	b := s.begin()
	b.Queue(insert, principals, routes, names, fingerprints, ids, now).Query(func(rows pgx.Rows) error {
		var id uuid.UUID
		_, err := pgx.ForEachRow(rows, []any{&id}, func() error { won[id] = true; return nil })
		return err
	})
	if err := s.conn.SendBatch(ctx, b).Close(); err != nil {
		return err
	}
	return s.findOwners(ctx, owners, won)
}

// findOwners looks up the keys that others hold, in a statement of its own:
// only a new snapshot sees what they committed while the insert waited.
func (s *pgSession) findOwners(ctx context.Context, owners map[keyOf]owner, won map[uuid.UUID]bool) error {
	const find = `SELECT fingerprint, saga_id FROM idempotency_key WHERE principal = $1 AND route = $2 AND key = $3`
	b := &pgx.Batch{}
	for k, o := range owners {
		if won[o.sagaID] {
			continue
		}
		b.Queue(find, k.principal, k.route, k.key).QueryRow(func(r pgx.Row) error {
			var held owner
			err := r.Scan(&held.fingerprint, &held.sagaID)
			owners[k] = held
			return err
		})
	}
	if b.Len() == 0 {
		return nil
	}
	return s.conn.SendBatch(ctx, b).Close()
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
	queueAttributes(b, jobs)
	queueHistory(b, rows)
	queueTimers(b, rows)
	queueLocks(b, rows, nil) // of what has ended at once
	queueBeside(b, rows)
	queueMessages(b, rows)
}

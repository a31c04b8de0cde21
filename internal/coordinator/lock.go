package coordinator

import (
	"cmp"
	"context"
	"fmt"
	"hash/fnv"
	"io"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/skald-saga/skald/internal/saga"
)

// lockMove is what a change means for a saga's lock.
type lockMove int

const (
	lockStays    lockMove = iota
	lockWanted            // it stands, or is to stand, among those that wait for it
	lockReserved          // its place among them is kept until its start time
	lockReleased          // the saga has ended, whether it held it or not
)

// moveLock notes what became of the saga's lock.
func (r *row) moveLock(before, after saga.State) {
	switch {
	case after.Lock == nil:
	case after.Lock.State == saga.LockReleased && before.Lock != nil && before.Lock.State != saga.LockReleased:
		r.lock, r.unlocked = lockReleased, true
	case after.WaitsFor() == saga.ForLock && before.WaitsFor() != saga.ForLock:
		r.lock = lockWanted
	case after.WaitsFor() == saga.ForStart && before.Status == "":
		r.lock = lockReserved
	}
}

// takeLocks lets sagas begin that get their locks, in this very transaction. If
// locks are only given back, nothing needs to be known and store sees to it.
func (tx *transaction) takeLocks(ctx context.Context) error {
	var moved []*row
	wanted := false
	for _, r := range tx.sorted() {
		if r.lock != lockStays {
			moved = append(moved, r)
		}
		wanted = wanted || r.lock == lockWanted
	}
	if !wanted {
		return nil
	}
	held, err := tx.s.moveLocks(ctx, moved)
	if err != nil {
		return fmt.Errorf("take locks: %w", err)
	}
	for _, r := range moved {
		r.lock = lockStays
	}
	for _, id := range held {
		if _, err := tx.apply(tx.rows[id], saga.Granted{}); err != nil {
			return err
		}
	}
	return nil
}

// takeLocks is the same for sagas that start. What it does to a saga is taken
// back before a start is tried again.
func (c *Coordinator) takeLocks(ctx context.Context, s session, starts []*startJob) error {
	var moved []*row
	for _, job := range starts {
		if job.waiting != nil {
			*job.row = *job.waiting
			moved = append(moved, job.row)
		}
	}
	if moved == nil {
		return nil
	}
	held, err := s.moveLocks(ctx, moved)
	if err != nil {
		return fmt.Errorf("take locks: %w", err)
	}
	pauses := c.pauses.Load()
	for _, r := range moved {
		r.lock = lockStays
		if !slices.Contains(held, r.id) {
			continue
		}
		d, err := saga.Advance(r.def.Definition, r.state, saga.Granted{}, r.created, pauses.held(r.def.Definition)...)
		if err == nil {
			err = r.take(c, d, pauses, r.created)
		}
		if err != nil {
			return err
		}
		r.lookBy(r.created.Add(soonest(r.def.Steps)))
	}
	return nil
}

// The first number of the advisory locks that guard keys: others may use
// advisory locks for other things.
const lockClass = 0x5a6a1d

// moveLocks takes, in one order, a guard on every key, which is held until the
// transaction ends. Sagas' rows are locked before, and nothing is waited for
// after: no two transactions wait for each other.
func (s *pgSession) moveLocks(ctx context.Context, rows []*row) (held []uuid.UUID, err error) {
	var wanted uuids
	for _, r := range rows {
		if r.lock == lockWanted {
			wanted = append(wanted, r.id)
		}
	}
	b := s.begin()
	b.Queue(byIndex)
	queueLocks(b, rows, wanted)
	b.Queue(`SELECT saga_id FROM saga_lock WHERE saga_id = ANY($1) AND held`, wanted).Query(func(rows pgx.Rows) error {
		held, err = pgx.CollectRows(rows, pgx.RowTo[uuid.UUID])
		return err
	})
	return held, s.conn.SendBatch(ctx, b).Close()
}

// queueLocks gives back and asks for the locks of rows, and grants every one
// that is free then. Who gets one has a timer row to hear of it by, except
// those of self, who are told at once.
func queueLocks(b *pgx.Batch, rows []*row, self uuids) {
	const (
		guard = `SELECT pg_advisory_xact_lock($1, h) FROM unnest($2::int[]) AS h`
		leave = `DELETE FROM saga_lock WHERE saga_id = ANY($1)`
		enter = `
			INSERT INTO saga_lock (saga_id, key, due)
			SELECT u.id, u.key, u.due FROM unnest($1::uuid[], $2::text[], $3::boolean[]) WITH ORDINALITY AS u (id, key, due, n) ORDER BY u.n
			ON CONFLICT (saga_id) DO UPDATE SET due = excluded.due`
		grant = `
			WITH next AS (
				UPDATE saga_lock SET held = true WHERE saga_id = ANY (ARRAY(
					SELECT first.saga_id FROM unnest($1::text[]) AS k (key), LATERAL (
						SELECT w.saga_id FROM saga_lock w WHERE w.key = k.key AND w.due ORDER BY w.seq LIMIT 1) AS first
					WHERE NOT EXISTS (SELECT FROM saga_lock h WHERE h.key = k.key AND h.held)))
				RETURNING saga_id)
			INSERT INTO saga_timer (due_at, saga_id) SELECT $2, saga_id FROM next WHERE saga_id <> ALL ($3)`
	)
	var (
		keys, names   []string
		hashes        []int32
		gone, entered uuids
		due           []bool
		now           time.Time
	)
	for _, r := range rows {
		switch r.lock {
		case lockStays:
			continue
		case lockReleased:
			gone = append(gone, r.id)
		case lockWanted, lockReserved:
			entered, names, due = append(entered, r.id), append(names, r.state.Lock.Key), append(due, r.lock == lockWanted)
		}
		keys, hashes, now = append(keys, r.state.Lock.Key), append(hashes, lockHash(r.state.Lock.Key)), r.updated
	}
	if keys == nil {
		return
	}
	slices.Sort(keys)
	slices.Sort(hashes)
	b.Queue(guard, lockClass, slices.Compact(hashes))
	if gone != nil {
		b.Queue(leave, gone)
	}
	if entered != nil {
		b.Queue(enter, entered, names, due)
	}
	if self == nil {
		self = uuids{}
	}
	b.Queue(grant, slices.Compact(keys), now, self)
}

func lockHash(key string) int32 {
	h := fnv.New32a()
	_, _ = io.WriteString(h, key)
	return int32(h.Sum32())
}

// Lock is a saga's lock as people see it.
type Lock struct {
	saga.Lock
	Holder   uuid.UUID // who holds it while this one waits; nil: known only where the saga is read
	Position int       // 1 is the next; 0: not known, or further back than maxPosition
}

const maxPosition = 1000

// placeLocks says of sagas that wait for a lock who holds it, and how many
// come before them.
func (c *Coordinator) placeLocks(ctx context.Context, sagas []Saga) error {
	const q = `
		SELECT w.saga_id, h.saga_id, (SELECT count(*) FROM (
			SELECT FROM saga_lock b WHERE b.key = w.key AND b.due AND NOT b.held AND b.seq <= w.seq LIMIT $2) AS ahead)
		FROM saga_lock w JOIN saga_lock h ON h.key = w.key AND h.held WHERE w.saga_id = ANY($1)`
	var waiting uuids
	for _, s := range sagas {
		if s.WaitsFor == saga.ForLock {
			waiting = append(waiting, s.ID)
		}
	}
	if waiting == nil {
		return nil
	}
	rows, err := c.Pool.Query(ctx, q, waiting, maxPosition+1)
	if err != nil {
		return err
	}
	var id, holder uuid.UUID
	var position int
	_, err = pgx.ForEachRow(rows, []any{&id, &holder, &position}, func() error {
		i := slices.IndexFunc(sagas, func(s Saga) bool { return s.ID == id })
		switch lock := sagas[i].Lock; {
		case holder == id: // its timer row will tell it in a moment
			lock.State = saga.LockHeld
		case position > maxPosition:
			lock.Holder = holder
		default:
			lock.Holder, lock.Position = holder, position
		}
		return nil
	})
	return err
}

// lockFlaw compares a saga's lock with its row in saga_lock.
func lockFlaw(s saga.State, stored string) error {
	want := ""
	if s.Lock != nil && s.Lock.State != saga.LockReleased {
		want = string(cmp.Or(s.WaitsFor(), saga.Waits(s.Lock.State)))
	}
	if stored == want || (stored == string(saga.LockHeld) && want == string(saga.ForLock)) { // it will hear of it in a moment
		return nil
	}
	return fmt.Errorf("its lock is %q, and saga_lock says %q", want, stored)
}

// verifyLocks looks for sagas that wait for a lock that is free, and for rows
// of sagas that do not exist.
func (c *Coordinator) verifyLocks(ctx context.Context, each func(Flaw)) error {
	const q = `
		SELECT w.saga_id, EXISTS (SELECT FROM saga s WHERE s.id = w.saga_id) FROM saga_lock w
		WHERE NOT EXISTS (SELECT FROM saga s WHERE s.id = w.saga_id)
		   OR w.due AND NOT EXISTS (SELECT FROM saga_lock h WHERE h.key = w.key AND h.held)`
	rows, err := c.Pool.Query(ctx, q)
	if err != nil {
		return fmt.Errorf("read locks to verify: %w", err)
	}
	var id uuid.UUID
	var exists bool
	_, err = pgx.ForEachRow(rows, []any{&id, &exists}, func() error {
		if exists {
			each(Flaw{SagaID: id, Reason: "it waits for a lock that nobody holds"})
		} else {
			each(Flaw{SagaID: id, Reason: "it has a lock and does not exist"})
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("read locks to verify: %w", err)
	}
	return nil
}

package coordinator

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/skald-saga/skald/internal/outbox"
	"github.com/skald-saga/skald/internal/saga"
)

// simDB is what the tables hold that is committed. It locks rows as Postgres
// does, and forgets what is not committed when a session ends.
type simDB struct {
	w       *world
	sagas   map[uuid.UUID]*simSaga
	order   []*simSaga // as they were created
	timers  []*simTimer
	keys    map[keyOf]*simKey
	outbox  []*simMessage // in the order of commits
	settled int           // so many of them has the relay passed
	parked  []*simMessage
	dead    int // dead letters
	locks   map[string][]simLock
	guards  map[string]*simSession // of the keys of locks
	pauses  simPauses
}

// simSaga is a row of saga, its history and its stale replies. What is read of
// it is what its history folds to, which is what its state says (P7).
type simSaga struct {
	id           uuid.UUID
	def          *definition
	version      int64
	status       saga.Status
	state        saga.State
	input        json.RawMessage
	wakeAt       time.Time
	created      time.Time
	updated      time.Time
	commandsUpTo int // so many messages were in the outbox when its latest commands were
	history      []saga.Entry
	stale        int
	commands     int // of all that were written
	lockedBy     *simSession
	meddled      bool // an operator has said of it what may not be true
	restartOf    *simSaga
	helped       int // how often somebody helped
}

type simTimer struct {
	due      time.Time
	saga     uuid.UUID
	withheld bool
	takenBy  *simSession
}

// simKey is an idempotency key; while it is not committed, others wait for it.
type simKey struct {
	owner
	by *simSession // nil: committed
}

// simSession is one transaction.
type simSession struct {
	db     *simDB
	task   *task
	locked []*simSaga
	timers []*simTimer
	keys   []keyOf
	locks  simLocks
	ended  bool
}

var errConnection = errors.New("the connection is lost")

func (db *simDB) session(context.Context) (session, error) {
	db.w.step()
	if db.w.chance(db.w.flaky) {
		return nil, errConnection
	}
	return &simSession{db: db, task: db.w.current}, nil
}

// await waits until nobody else holds what holder speaks of.
func (s *simSession) await(holder func() *simSession) error {
	for {
		h := holder()
		if h == nil || h == s {
			return nil
		}
		s.task.waits = h
		s.db.w.step()
		s.task.waits = nil
		if s.task.deadlocked {
			s.task.deadlocked = false
			return &pgconn.PgError{Code: "40P01", Message: "deadlock detected"}
		}
	}
}

func (s *simSession) take(st *simSaga) error {
	if s.db.w.plant == lostLocks {
		return nil
	}
	if err := s.await(func() *simSession { return st.lockedBy }); err != nil {
		return err
	}
	if st.lockedBy != s {
		st.lockedBy = s
		s.locked = append(s.locked, st)
	}
	return nil
}

func (s *simSession) lock(_ context.Context, ids uuids) ([]*row, error) {
	s.db.w.step()
	slices.SortFunc(ids, func(a, b [16]byte) int { return bytes.Compare(a[:], b[:]) })
	var rows []*row
	for _, id := range slices.Compact(ids) {
		st := s.db.sagas[id]
		if st == nil {
			continue
		}
		if err := s.take(st); err != nil {
			return nil, err
		}
		rows = append(rows, st.row(true, false))
	}
	s.db.w.step()
	return rows, nil
}

func (st *simSaga) row(sent, heldWas bool) *row {
	r := &row{
		id: st.id, def: &definition{id: st.def.id}, version: st.version, status: st.status, created: st.created, updated: st.updated,
		wakeAt: st.wakeAt, sent: sent, heldWas: heldWas, state: st.state,
	}
	r.asRead()
	return r
}

func (s *simSession) lockDue(_ context.Context, now time.Time, limit int) ([]*row, error) {
	s.db.w.step()
	var due []*simTimer
	for _, t := range s.db.timers {
		if !t.due.After(now) && t.takenBy == nil {
			due = append(due, t)
		}
	}
	slices.SortStableFunc(due, func(a, b *simTimer) int { return a.due.Compare(b.due) })
	withheld := map[uuid.UUID]bool{}
	var ids uuids
	for _, t := range due[:min(limit, len(due))] {
		t.takenBy, s.timers = s, append(s.timers, t)
		withheld[t.saga] = withheld[t.saga] || t.withheld
		ids = append(ids, t.saga)
	}
	slices.SortFunc(ids, func(a, b [16]byte) int { return bytes.Compare(a[:], b[:]) })
	var rows []*row
	for _, id := range slices.Compact(ids) {
		st := s.db.sagas[id]
		if st.status.Ended() {
			continue
		}
		if err := s.take(st); err != nil {
			return nil, err
		}
		if !st.status.Ended() { // as it is now
			rows = append(rows, st.row(s.db.sent(st), withheld[id]))
		}
	}
	s.db.w.step()
	return rows, nil
}

// sent says what the relay's position says of a saga's latest commands.
func (db *simDB) sent(st *simSaga) bool {
	if db.w.plant == blindTimers {
		return true
	}
	return db.settled >= st.commandsUpTo &&
		!slices.ContainsFunc(db.parked, func(m *simMessage) bool { return m.saga == st.id })
}

// commit makes a transaction happen, or not, and says so, or not.
func (s *simSession) commit(apply func()) error {
	w := s.db.w
	w.step()
	if w.chance(w.flaky) {
		return errConnection
	}
	s.keepLocks()
	apply()
	if w.plant != forgottenTimers {
		s.db.timers = slices.DeleteFunc(s.db.timers, func(t *simTimer) bool { return t.takenBy == s })
	}
	for _, k := range s.keys {
		s.db.keys[k].by = nil
	}
	s.keys = nil
	s.end()
	w.step()
	if w.chance(w.flaky) {
		return errConnection
	}
	return nil
}

func (s *simSession) end() {
	s.unguard()
	for _, st := range s.locked {
		st.lockedBy = nil
	}
	for _, t := range s.timers {
		t.takenBy = nil
	}
	for _, k := range s.keys {
		delete(s.db.keys, k)
	}
	s.ended = true
}

func (s *simSession) close(context.Context, bool) {
	if !s.ended {
		s.end()
	}
}

func (s *simSession) store(_ context.Context, rows []*row, dead []deadLetter) error {
	for _, r := range rows {
		if !r.changed() {
			continue
		}
		st := s.db.sagas[r.id]
		if err := s.take(st); err != nil {
			return err
		}
		asRead := st.version == r.read.version && st.updated.Equal(r.read.updated) && st.wakeAt.Equal(r.read.wakeAt)
		if !asRead && s.db.w.plant != lostGuard {
			return &pgconn.PgError{Code: "40001", Message: "changed meanwhile"}
		}
	}
	if slices.ContainsFunc(rows, unstorable) {
		return &pgconn.PgError{Code: "22P05", Message: "untranslatable character"}
	}
	if err := s.relock(rows, nil); err != nil {
		return err
	}
	return s.commit(func() {
		for _, r := range rows {
			s.db.update(s.db.sagas[r.id], r)
		}
		s.db.dead += len(dead)
		s.task.dealt += len(dead)
		s.db.send(rows)
		for _, r := range rows {
			s.db.w.checkTimer(s.db.sagas[r.id], s)
		}
	})
}

// unstorable reports whether the database refuses what a reply has brought.
func unstorable(r *row) bool {
	return slices.ContainsFunc(r.history, func(t transition) bool { return bytes.Contains(t.entries, poison) })
}

var poison = []byte("poison")

func (db *simDB) update(st *simSaga, r *row) {
	st.stale += len(r.staleSeen)
	w := db.w
	w.current.dealt += len(r.staleSeen) + len(r.history)
	for _, what := range r.beside {
		db.pauses.writeBeside(what)
	}
	if len(r.history) == 0 {
		w.checkUnchanged(st, r)
	}
	if !r.changed() {
		return
	}
	st.version, st.status = r.version, r.state.Status
	st.wakeAt, st.updated = r.wakeAt.Truncate(time.Microsecond), r.updated
	db.remember(st, r)
	if w.plant == forgottenRows && w.current.doing == "timers" {
		return
	}
	if !r.due.IsZero() {
		db.timers = append(db.timers, &simTimer{due: r.due.Truncate(time.Microsecond), saga: r.id, withheld: r.held})
	}
}

// remember appends to the saga's history and checks that it is the state.
func (db *simDB) remember(st *simSaga, r *row) {
	for i, t := range r.history {
		if db.w.plant == lostHistory && len(st.history) > 0 && db.w.chance(50) {
			continue
		}
		var entries []saga.Entry
		if err := json.Unmarshal(t.entries, &entries); err != nil {
			db.w.failf("P7", "%v", err)
		}
		if want := r.version - int64(len(r.history)-1-i); t.version != want {
			db.w.failf("P7", "saga %s: history has version %d where %d should be", st.name(), t.version, want)
		}
		for _, e := range entries {
			e.At = t.at
			db.w.checkEntry(st, e)
			st.history = append(st.history, e)
		}
	}
	db.w.checkFold(st, r.state)
}

// send appends to the outbox, as queueMessages does.
func (db *simDB) send(rows []*row) {
	for _, r := range rows {
		st := db.sagas[r.id]
		for _, m := range r.commands {
			db.append(st, m, true)
		}
	}
	for _, r := range rows {
		st := db.sagas[r.id]
		for _, m := range r.events {
			db.append(st, m, false)
		}
	}
	for _, r := range rows {
		if len(r.commands) > 0 {
			db.sagas[r.id].commandsUpTo = len(db.outbox)
		}
	}
}

func (db *simDB) append(st *simSaga, m outbox.Message, command bool) {
	msg := &simMessage{saga: st.id, Message: m, command: command}
	if command {
		st.commands++
		db.w.read(st, msg)
	}
	db.outbox = append(db.outbox, msg)
}

func (s *simSession) claim(_ context.Context, owners map[keyOf]owner, _ time.Time) error {
	s.db.w.step()
	keys := make([]keyOf, 0, len(owners))
	for k := range owners {
		keys = append(keys, k)
	}
	slices.SortFunc(keys, func(a, b keyOf) int { return cmp.Or(cmp.Compare(a.route, b.route), cmp.Compare(a.key, b.key)) })
	for _, k := range keys {
		err := s.await(func() *simSession {
			if held := s.db.keys[k]; held != nil {
				return held.by
			}
			return nil
		})
		if err != nil {
			return err
		}
		if held := s.db.keys[k]; held != nil && s.db.w.plant != ignoredKeys {
			owners[k] = held.owner
			continue
		}
		s.db.keys[k] = &simKey{owners[k], s}
		s.keys = append(s.keys, k)
	}
	s.db.w.step()
	return nil
}

func (s *simSession) create(_ context.Context, starts []*startJob) error {
	var ended []*row
	for _, job := range starts {
		ended = append(ended, job.row)
	}
	if err := s.relock(ended, nil); err != nil {
		return err
	}
	return s.commit(func() {
		var rows []*row
		for _, job := range starts {
			st := &simSaga{id: job.row.id, def: job.row.def, input: job.row.state.Input, created: job.row.created}
			if job.row.state.RestartOf != "" {
				st.restartOf = s.db.sagas[uuid.MustParse(job.row.state.RestartOf)]
			}
			s.db.sagas[st.id], s.db.order = st, append(s.db.order, st)
			s.db.update(st, job.row)
			st.updated = st.created
			rows = append(rows, job.row)
		}
		s.db.send(rows)
		for _, r := range rows {
			s.db.w.checkTimer(s.db.sagas[r.id], s)
		}
	})
}

func (st *simSaga) open() bool { return !st.status.Ended() }

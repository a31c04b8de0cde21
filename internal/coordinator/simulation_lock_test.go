package coordinator

import (
	"context"
	"slices"
	"time"

	"github.com/google/uuid"

	"github.com/skald-saga/skald/internal/saga"
)

// simLock is a row of saga_lock. Those of a key stand in order of acceptance.
type simLock struct {
	saga      uuid.UUID
	due, held bool
}

// simLocks is what a session has made of the keys that it guards.
type simLocks struct {
	keys map[string][]simLock
	told []*simTimer
}

func (s *simSession) moveLocks(_ context.Context, rows []*row) ([]uuid.UUID, error) {
	s.db.w.step()
	var wanted []uuid.UUID
	for _, r := range rows {
		if r.lock == lockWanted {
			wanted = append(wanted, r.id)
		}
	}
	if err := s.relock(rows, wanted); err != nil {
		return nil, err
	}
	held := slices.DeleteFunc(wanted, func(id uuid.UUID) bool {
		for _, locks := range s.locks.keys {
			if slices.ContainsFunc(locks, func(l simLock) bool { return l.saga == id && l.held }) {
				return false
			}
		}
		return true
	})
	s.db.w.step()
	return held, nil
}

// relock does what queueLocks does.
func (s *simSession) relock(rows []*row, self []uuid.UUID) error {
	var keys []string
	for _, r := range rows {
		if r.lock != lockStays {
			keys = append(keys, r.state.Lock.Key)
		}
	}
	slices.Sort(keys)
	for _, key := range slices.Compact(keys) {
		if err := s.await(func() *simSession { return s.db.guards[key] }); err != nil {
			return err
		}
		s.db.guards[key] = s
		if s.locks.keys == nil {
			s.locks.keys = map[string][]simLock{}
		}
		if _, mine := s.locks.keys[key]; !mine {
			s.locks.keys[key] = slices.Clone(s.db.locks[key])
		}
	}
	var now time.Time
	for _, r := range rows {
		if r.lock == lockStays {
			continue
		}
		now = r.updated
		locks := s.locks.keys[r.state.Lock.Key]
		i := slices.IndexFunc(locks, func(l simLock) bool { return l.saga == r.id })
		switch {
		case r.lock == lockReleased && i >= 0:
			locks = slices.Delete(locks, i, i+1)
		case r.lock == lockReleased:
		case i >= 0:
			locks[i].due = r.lock == lockWanted
		default:
			locks = append(locks, simLock{saga: r.id, due: r.lock == lockWanted})
		}
		s.locks.keys[r.state.Lock.Key] = locks
	}
	for _, key := range keys {
		locks := s.locks.keys[key]
		first := slices.IndexFunc(locks, func(l simLock) bool { return l.due })
		if first < 0 || slices.ContainsFunc(locks, func(l simLock) bool { return l.held }) {
			continue
		}
		locks[first].held = true
		if !slices.Contains(self, locks[first].saga) {
			s.locks.told = append(s.locks.told, &simTimer{due: now, saga: locks[first].saga})
		}
	}
	return nil
}

// keepLocks is what a commit does with them.
func (s *simSession) keepLocks() {
	for key, locks := range s.locks.keys {
		s.db.locks[key] = locks
	}
	s.db.timers = append(s.db.timers, s.locks.told...)
}

// unguard lets others at the keys.
func (s *simSession) unguard() {
	for key := range s.locks.keys {
		delete(s.db.guards, key)
	}
}

// checkLock: a saga runs only while it holds its lock, and who waits for one
// that is free has a timer. (P2)
func (w *world) checkLock(st *simSaga, s *simSession) {
	lock := st.state.Lock
	if lock == nil {
		return
	}
	var held *simLock
	i := -1
	for n := range w.db.locks[lock.Key] {
		l := &w.db.locks[lock.Key][n]
		if l.held {
			held = l
		}
		if l.saga == st.id {
			i = n
		}
	}
	switch {
	case lock.State == saga.LockReleased && i >= 0:
		w.failf("P2", "saga %s has ended and its lock is still there", st.name())
	case lock.State == saga.LockHeld && (held == nil || held.saga != st.id):
		w.failf("P2", "saga %s runs without its lock", st.name())
	case lock.State == saga.LockWaiting && i < 0:
		w.failf("P2", "saga %s waits for its lock and stands nowhere", st.name())
	case st.state.WaitsFor() == saga.ForLock && held == nil:
		w.failf("P2", "saga %s waits for a lock that nobody holds", st.name())
	case st.state.WaitsFor() == saga.ForLock && held.saga == st.id &&
		!slices.ContainsFunc(w.db.timers, func(t *simTimer) bool {
			return t.saga == st.id && t.takenBy != s && !t.due.After(w.now.Add(time.Minute))
		}):
		w.failf("P2", "saga %s was granted its lock and will not hear of it", st.name())
	}
}

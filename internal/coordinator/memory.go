package coordinator

import (
	"sync"
	"time"

	"github.com/google/uuid"
)

// memory holds open sagas as this server stored them last, so that their next
// reply need not read them. It is a guess and never the truth: what is made of
// it is stored only if the database still has what the guess says (see guard).
//
// It is bounded: what has not been touched while a whole generation of others
// was is forgotten. The zero value is empty.
type memory struct {
	mu         sync.Mutex
	young, old map[uuid.UUID]row
	bytes      int // held by young

	wrongUntil time.Time     // not asked before: other servers work on the same sagas
	wrongFor   time.Duration // how long it was not asked the last time
}

const (
	generationSagas = 16 << 10
	generationBytes = 16 << 20

	distrustFirst = time.Second
	distrustMost  = time.Minute
)

// get returns a saga to work on; nil if it is not known.
func (m *memory) get(id uuid.UUID) *row {
	m.mu.Lock()
	defer m.mu.Unlock()
	r, known := m.young[id]
	if !known {
		if r, known = m.old[id]; !known {
			return nil
		}
	}
	return &r
}

// put remembers a saga as it was just stored. What has ended is forgotten:
// nobody replies any more.
func (m *memory) put(r *row) {
	m.mu.Lock()
	defer m.mu.Unlock()
	known, have := m.young[r.id]
	if !have {
		known, have = m.old[r.id]
	}
	if have && known.version > r.version { // another goroutine's news were faster
		return
	}
	if have {
		m.forget(r.id)
	}
	if r.broken != nil || r.state.Status.Ended() {
		return
	}
	// A due time is kept as the database keeps it: the guard compares the two.
	kept := row{
		id: r.id, def: r.def, version: r.version, status: r.state.Status, state: r.state,
		wakeAt: r.wakeAt.Truncate(time.Microsecond), created: r.created, updated: r.updated, trace: r.trace, sent: true,
	}
	kept.asRead()
	if m.young == nil || len(m.young) == generationSagas || m.bytes > generationBytes {
		m.old, m.young, m.bytes = m.young, map[uuid.UUID]row{}, 0
	}
	m.young[r.id] = kept
	m.bytes += weight(kept)
}

func (m *memory) forget(id uuid.UUID) {
	if r, young := m.young[id]; young {
		m.bytes -= weight(r)
		delete(m.young, id)
	}
	delete(m.old, id)
}

// weight is about what a saga takes, beyond what all take.
func weight(r row) int {
	n := len(r.state.Input)
	for i := range r.state.Steps {
		n += len(r.state.Steps[i].Result)
	}
	return n
}

// trusted reports whether it is worth asking.
func (m *memory) trusted(now time.Time) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return !now.Before(m.wrongUntil)
}

// distrust says that a guess was wrong. Once is a coincidence; when other
// servers handle the same sagas' replies it is wrong every time, and asking
// costs more than it saves.
func (m *memory) distrust(now time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if now.Sub(m.wrongUntil) > distrustMost {
		m.wrongFor = 0
	}
	m.wrongFor = min(max(2*m.wrongFor, distrustFirst), distrustMost)
	m.wrongUntil = now.Add(m.wrongFor)
}

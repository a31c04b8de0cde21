package coordinator

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/skald-saga/skald/internal/saga"
)

// watchPoll is how soon a change made by another server is noticed.
const watchPoll = 250 * time.Millisecond

// watchers are the callers of Await. What has just changed is remembered, so
// that who begins to wait a moment too late misses nothing.
type watchers struct {
	mu     sync.Mutex
	byID   map[uuid.UUID]map[*watcher]struct{}
	recent map[uuid.UUID]int64 // versions of the sagas in ring
	ring   [recentChanges]uuid.UUID
	next   int // where the next one goes in ring
}

const recentChanges = 4096

type watcher struct {
	version int64     // the last one seen
	done    Done      // what it waits for
	news    chan news // of capacity 1: the latest
}

// Done says whether a saga is what somebody waits for.
type Done func(version int64, status saga.Status) bool

// Ended is what those wait for who want to know how a saga ends.
func Ended(_ int64, status saga.Status) bool { return status.Ended() }

// news is that a saga has changed; saga is nil if what it is now must be read.
type news struct {
	version int64
	saga    *Saga
}

// Await returns a saga as soon as done says so of a later version than seen,
// which is the saga as it was last read. When ctx ends first, it returns the
// saga as it stands. It returns [ErrNotFound] if there is none.
//
// done is asked of every version that this server makes, and must not block; the
// saga as it was stored then is returned, without reading it again: its StaleReplies are those
// of seen (see [Coordinator.StaleReplies]). A version made by another server is
// noticed by polling, and read.
func (c *Coordinator) Await(ctx context.Context, seen Saga, done Done) (Saga, error) {
	id := seen.ID
	w := &watcher{version: seen.Version, done: done, news: make(chan news, 1)}
	c.watch.add(id, w)
	defer c.watch.remove(id, w)
	// The answer is read even if ctx ends at once.
	read := func() (Saga, error) {
		readCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
		defer cancel()
		return c.Get(readCtx, id)
	}
	s, err := seen, error(nil)
	for err == nil && !done(s.Version, s.Status) {
		c.watch.saw(w, s.Version)
		select {
		case n := <-w.news:
			if n.saga == nil {
				s, err = read()
				continue
			}
			s = *n.saga
			s.StaleReplies = seen.StaleReplies
		case <-c.stopped:
			return read()
		case <-ctx.Done():
			return read()
		}
	}
	return s, err
}

func (ws *watchers) add(id uuid.UUID, w *watcher) {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	if ws.byID == nil {
		ws.byID = map[uuid.UUID]map[*watcher]struct{}{}
	}
	if ws.byID[id] == nil {
		ws.byID[id] = map[*watcher]struct{}{}
	}
	ws.byID[id][w] = struct{}{}
	if version := ws.recent[id]; version > w.version {
		w.news <- news{version: version}
	}
}

// remember notes a saga's version. The caller holds the lock.
func (ws *watchers) remember(id uuid.UUID, version int64) {
	if ws.recent == nil {
		ws.recent = map[uuid.UUID]int64{}
	}
	if _, known := ws.recent[id]; !known {
		delete(ws.recent, ws.ring[ws.next])
		ws.ring[ws.next] = id
		ws.next = (ws.next + 1) % recentChanges
	}
	ws.recent[id] = max(ws.recent[id], version)
}

func (ws *watchers) remove(id uuid.UUID, w *watcher) {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	delete(ws.byID[id], w)
	if len(ws.byID[id]) == 0 {
		delete(ws.byID, id)
	}
}

func (ws *watchers) saw(w *watcher, version int64) {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	w.version = version
}

// changed tells those who have not seen this version and wait for such a one.
// view is then called, and may fail: they read for themselves.
func (ws *watchers) changed(id uuid.UUID, version int64, status saga.Status, view func() (Saga, error)) {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	ws.remember(id, version)
	n := news{version: version}
	for w := range ws.byID[id] {
		if w.version >= version || !w.done(version, status) {
			continue
		}
		if n.saga == nil {
			if s, err := view(); err == nil {
				n.saga = &s
			}
		}
		select {
		case old := <-w.news: // not taken yet: the latest counts
			if old.version > n.version {
				w.news <- old
				continue
			}
		default:
		}
		w.news <- n // there is room: only we put in, and we hold the lock
	}
}

var errNotRead = errors.New("the saga was not read")

func (ws *watchers) ids() uuids {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	ids := make(uuids, 0, len(ws.byID))
	for id := range ws.byID {
		ids = append(ids, id)
	}
	return ids
}

// runWatch notices, with one query for all who wait and none if nobody does,
// what other servers changed. Changes of this one are told directly.
func (c *Coordinator) runWatch(ctx context.Context) error {
	ticker := time.NewTicker(watchPoll)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
		ids := c.watch.ids()
		if len(ids) == 0 {
			continue
		}
		rows, err := c.Pool.Query(ctx, `SELECT id, version, status FROM saga WHERE id = ANY($1)`, ids)
		if err == nil {
			var id uuid.UUID
			var version int64
			var status saga.Status
			_, err = pgx.ForEachRow(rows, []any{&id, &version, &status}, func() error {
				c.watch.changed(id, version, status, func() (Saga, error) { return Saga{}, errNotRead })
				return nil
			})
		}
		if err != nil && !errors.Is(err, context.Canceled) {
			c.Log.WarnContext(ctx, "looking for changed sagas failed", "err", err)
		}
	}
}

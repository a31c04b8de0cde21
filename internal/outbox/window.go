package outbox

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
)

// reader reads the outbox window by window: the rows that are visible in
// snapshot B and were not in snapshot A, in the order of their sequence. The
// idea is that of PgQ (Skype, 2007).
//
// A cursor on the sequence would lose rows whose transaction commits after a
// later number was read. Waiting for the oldest transaction (the xmin horizon)
// would stall behind any writer, and (xid, seq) order would reorder a key. A
// window does none of that: a row belongs to the window in which its commit
// became visible, whenever it was numbered.
type reader struct {
	pool   *pgxpool.Pool
	limits limits

	stored   position // as we last saw or wrote it
	from     string   // A: stored.from, or a later snapshot up to which there was nothing
	timeline string   // of the cluster, when from was remembered
	haveSeen bool
	listed   list // of the open window
	moves    int  // how often we moved the position
	parking  parking
}

// limits bound the memory of a reader.
type limits struct {
	rows  int // in a page
	bytes int // of payload in a page; a single larger row is a page of its own
	list  int // positions known ahead

	parked   int           // rows that may be parked, more or less
	patience time.Duration // how long nothing may be taken before rows are parked all the same
}

// The patience is more than it takes Skald to make a lost stream again.
var defaultLimits = limits{rows: 500, bytes: 8 << 20, list: 50_000, parked: 100_000, patience: 10 * time.Second}

// position is what outbox_lane holds.
type position struct {
	from string
	to   *string // nil: no window is open
	pos  int64
}

func (p position) equal(q position) bool {
	return p.from == q.from && p.pos == q.pos && (p.to == nil) == (q.to == nil) && (p.to == nil || *p.to == *q.to)
}

// page is a part of a window.
type page struct {
	from, to string
	pos      int64 // rows up to here were published before
	rows     []Row
	last     bool // nothing follows in this window
}

// look takes a snapshot and reads the lane, in one statement: all that an idle
// relay asks. The insert position, read after the snapshot was taken, is past
// the commit records of all that the snapshot can see.
const look = `
	SELECT pg_current_snapshot()::text, i.lsn::text, pg_current_wal_flush_lsn() >= i.lsn, substr(pg_walfile_name(i.lsn), 1, 8),
	       l.snap_from::text, l.snap_to::text, l.pos, pg_snapshot_xmax(l.snap_from) > pg_snapshot_xmax(pg_current_snapshot())
	FROM outbox_lane l, LATERAL (SELECT pg_current_wal_insert_lsn() AS lsn) i WHERE l.lane = $1`

// sight is the answer to look.
type sight struct {
	now      string // snapshot
	inserted string // write-ahead log position that now is sure not to lie behind
	durable  bool   // all that now can see is on disk
	timeline string
	stored   position
	ahead    bool // the position is of a later time than the database
}

// errRestored needs a person: see docs/relay.md.
var errRestored = errors.New("the outbox position lies ahead of the database's transactions: was it restored from a dump?")

func (rd *reader) look(ctx context.Context) (sight, error) {
	var s sight
	err := rd.pool.QueryRow(ctx, look, lane).Scan(
		&s.now, &s.inserted, &s.durable, &s.timeline, &s.stored.from, &s.stored.to, &s.stored.pos, &s.ahead)
	if err != nil {
		return sight{}, fmt.Errorf("take outbox snapshot: %w", err)
	}
	if s.ahead {
		return sight{}, errRestored
	}
	return s, nil
}

// next returns the next page that may be published; an empty one if there is
// nothing.
func (rd *reader) next(ctx context.Context) (page, error) {
	s, err := rd.look(ctx)
	if err != nil {
		return page{}, err
	}
	if !rd.haveSeen || !s.stored.equal(rd.stored) || s.timeline != rd.timeline {
		// Our first look; or another relay has moved on; or another server was
		// promoted, which may give out again the transaction ids that we saw on
		// the one before.
		rd.stored, rd.from, rd.timeline, rd.haveSeen = s.stored, s.stored.from, s.timeline, true
		rd.parking = parking{may: true, rows: rd.parking.rows, blocked: rd.parking.blocked}
	}
	p := page{from: rd.from, to: s.now}
	if s.stored.to != nil { // a window was begun: it keeps its bounds
		p.to, p.pos = *s.stored.to, s.stored.pos
	}
	if p.from == p.to {
		return p, nil // nothing happened in the whole cluster
	}
	if s.stored.to == nil {
		err = rd.read(ctx, &p)
	} else {
		err = rd.readOn(ctx, &p)
	}
	if err != nil {
		return page{}, err
	}
	if len(p.rows) == 0 {
		return p, rd.skip(ctx, p, s)
	}
	if !s.durable {
		if err := rd.awaitFlush(ctx, s.inserted); err != nil {
			return page{}, err
		}
	}
	return p, nil
}

// skip ends a window without rows. It is remembered, not written: our own
// write would change the next snapshot, and we would never be idle.
//
// Only what is on disk is remembered. After a crash, Postgres gives out again
// the transaction ids of which no trace was on disk, and rows of theirs would
// seem to be older than the window. (A position that is written is safe: the
// transaction that wrote it has a later id.)
func (rd *reader) skip(ctx context.Context, p page, s sight) error {
	if s.stored.to != nil {
		return rd.settle(ctx, p, 0, nil) // the open window has ended
	}
	if s.durable {
		rd.from = p.to
	}
	return nil
}

// awaitFlush is the durability guard: a commit with synchronous_commit off is
// visible before it is on disk, and a crash may take it back. What is not
// durable yet is not published yet.
//
// Somebody else's commit may have flushed meanwhile. Else we do, by a commit of
// our own: on a busy server the log always ends with what others have begun,
// and to wait for them costs more than to flush.
func (rd *reader) awaitFlush(ctx context.Context, lsn string) error {
	var flushed bool
	if err := rd.pool.QueryRow(ctx, `SELECT pg_current_wal_flush_lsn() >= $1::pg_lsn`, lsn).Scan(&flushed); err != nil {
		return fmt.Errorf("read flush position: %w", err)
	}
	if flushed {
		return nil
	}
	return rd.flush(ctx)
}

// flush puts the write-ahead log on disk, up to here. The update changes
// nothing.
func (rd *reader) flush(ctx context.Context) error {
	const q = `
		WITH durability AS MATERIALIZED (SELECT set_config('synchronous_commit', 'local', true))
		UPDATE outbox_lane SET pos = pos FROM durability WHERE lane = $1`
	if _, err := rd.pool.Exec(ctx, q, lane); err != nil {
		return fmt.Errorf("flush write-ahead log: %w", err)
	}
	return nil
}

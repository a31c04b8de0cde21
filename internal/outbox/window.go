package outbox

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"
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
//
// Lanes that stand at the same place are read together, as one: for a relay
// that has them all, several lanes are no more work than one.
type reader struct {
	pool   *pgxpool.Pool
	lease  *lease
	limits limits

	lanes    map[int16]*lane // those that we hold, as we last saw or wrote them
	timeline string          // of the cluster
	flushed  string          // what this snapshot can see is on disk
	seen     sight           // the latest
	todo     []group         // still to be read, up to until
	until    string          // the snapshot at which all lanes were last looked at
	long     map[string]*long
	moves    int           // how often we moved a position
	limit    time.Duration // of reading a page
	parking  parking
	guard    prometheus.Observer // of the time until rows are on disk; may be nil
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

// position is how far a lane was published. It is comparable.
type position struct {
	from string // A: what was visible in it was published
	to   string // B; empty: no window is open
	pos  int64  // of the window, the rows up to here were published
}

// lane is one that we hold.
type lane struct {
	id     int16
	epoch  int64
	stored position // what outbox_lane holds
	now    position // the same, or a later snapshot up to which there was nothing
}

// group is lanes at the same place, read as one.
type group struct {
	position
	lanes []int16
}

// page is a part of a window of a group.
type page struct {
	group
	end  string // of the window
	rows []Row
	last bool // nothing follows in this window
}

// sight is what one statement sees: a snapshot and the lanes.
type sight struct {
	Now      string // snapshot
	Durable  bool   // all that Now can see is on disk
	Inserted string // write-ahead log position that Now is sure not to lie behind
	Timeline string
	Relays   int // alive, we among them
	Lanes    []struct {
		Lane  int16
		From  string
		To    string
		Pos   int64
		Epoch int64
		Owner string
		Mine  bool
		Left  *float64 // seconds of the lease, before we renewed it; nil: nobody has it
		Ahead bool     // the position is of a later time than the database
	}
	Renewed []int16 // lanes of which we have just renewed the lease
}

// look takes a snapshot, reads the lanes and renews the lease: all that an idle
// relay asks. The insert position, read after the snapshot was taken, is past
// the commit records of all that the snapshot can see.
const look = `WITH ` + renew + `
	SELECT json_build_object('Now', pg_current_snapshot()::text, 'Inserted', i.lsn::text, 'Durable', pg_current_wal_flush_lsn() >= i.lsn,
	         'Timeline', substr(pg_walfile_name(i.lsn), 1, 8), 'Renewed', (SELECT json_agg(lane) FROM renewed),
	         'Relays', (SELECT count(*) FROM (SELECT owner FROM outbox_lane WHERE lease_until > clock_timestamp()
	           UNION SELECT relay FROM outbox_relay WHERE seen_until > clock_timestamp() UNION SELECT $6) r),
	         'Lanes', (SELECT json_agg(json_build_object('Lane', l.lane, 'From', l.snap_from::text, 'To', coalesce(l.snap_to::text, ''),
	           'Pos', l.pos, 'Epoch', l.epoch, 'Owner', coalesce(l.owner, ''), 'Mine', l.owner IS NOT DISTINCT FROM $6, 'Left', extract(epoch FROM l.lease_until - clock_timestamp()),
	           'Ahead', pg_snapshot_xmax(l.snap_from) > pg_snapshot_xmax(pg_current_snapshot())) ORDER BY l.lane) FROM outbox_lane l)) AS sight,
	       0::smallint AS lane, -1::bigint AS seq, ''::text AS key, '00000000-0000-0000-0000-000000000000'::uuid AS msg_id, ''::text AS subject,
	       NULL::json AS headers, NULL::bytea AS payload, now() AS created_at, 0::bigint AS n
	FROM (SELECT pg_current_wal_insert_lsn() AS lsn) i`

// ErrRestored says that waiting would bring nothing: see [Rebase]. It is an
// [ErrNoOutbox].
var ErrRestored = fmt.Errorf("%w: its transaction ids are not of this cluster, as in a dump that was restored; run `relay rebase`", ErrNoOutbox)

// errLapsed says that we may not rely on our lease any more.
var errLapsed = errors.New("the lease ran out before the page could be published: looking again")

// next returns the next page that may be published; an empty one if there is
// nothing in any lane.
func (rd *reader) next(ctx context.Context) (page, error) {
	for {
		var g group
		fresh := false // read up to a new snapshot
		switch groups := rd.groups(); {
		case len(rd.todo) > 0:
			g, rd.todo = rd.todo[0], rd.todo[1:]
		case len(groups) == 1:
			g, fresh = groups[0], true
		default: // we know of no lane, or of several that stand apart: they are read up to one snapshot, and meet there
			if err := rd.look(ctx); err != nil {
				return page{}, err
			}
			if rd.until, rd.todo = rd.seen.Now, rd.groups(); len(rd.todo) == 0 {
				return page{}, nil
			}
			continue
		}
		p, err := rd.read(ctx, g, fresh)
		switch {
		case errors.Is(err, errChanged):
			rd.todo = nil
		case err != nil:
			return page{}, err
		case len(p.rows) > 0:
			// Our own moves of the position are not on disk at once: while a window
			// has more pages, only what it ends with must be, and is.
			if !rd.seen.Durable && p.end != rd.flushed {
				if err := rd.awaitFlush(ctx, rd.seen.Inserted); err != nil {
					return page{}, err
				}
			}
			rd.flushed = p.end
			return p, nil
		default:
			if err := rd.skip(ctx, p); err != nil || len(rd.todo) == 0 {
				return page{}, err
			}
		}
	}
}

// nextInTime is next, with a limit. A window may be so long that it cannot be
// searched within it: then the next try has more time.
func (rd *reader) nextInTime(ctx context.Context) (page, error) {
	rd.limit = max(rd.limit, readTimeout)
	limited, cancel := context.WithTimeout(ctx, rd.limit)
	defer cancel()
	p, err := rd.next(limited)
	switch {
	case err == nil:
		rd.limit = readTimeout
	case limited.Err() != nil && ctx.Err() == nil:
		rd.limit = min(2*rd.limit, readMost)
	}
	return p, err
}

// groups puts lanes together that stand at the same place.
func (rd *reader) groups() (groups []group) {
	for _, l := range rd.sorted() {
		i := slices.IndexFunc(groups, func(g group) bool { return g.position == l.now })
		if i < 0 {
			groups = append(groups, group{position: l.now, lanes: []int16{l.id}})
		} else {
			groups[i].lanes = append(groups[i].lanes, l.id)
		}
	}
	return groups
}

func (rd *reader) sorted() []*lane {
	lanes := make([]*lane, 0, len(rd.lanes))
	for _, l := range rd.lanes {
		lanes = append(lanes, l)
	}
	slices.SortFunc(lanes, func(a, b *lane) int { return int(a.id - b.id) })
	return lanes
}

// held are the lanes that we hold.
func (rd *reader) held() []int16 {
	ids := []int16{}
	for _, l := range rd.sorted() {
		ids = append(ids, l.id)
	}
	return ids
}

// untilFree is when the next lease of another relay runs out if it is not
// renewed.
func (rd *reader) untilFree() time.Duration {
	d := pollSlow
	for _, l := range rd.seen.Lanes {
		if !l.Mine && l.Left != nil && *l.Left > 0 {
			d = min(d, time.Duration(*l.Left*float64(time.Second))+time.Millisecond)
		}
	}
	return d
}

// forget makes us look again at what we hold.
func (rd *reader) forget() {
	rd.lanes, rd.todo = nil, nil
}

// errChanged says that a lane is not as we thought: what was read is void.
var errChanged = errors.New("a lane has changed")

// look looks at the lanes, and reads a page of nothing.
func (rd *reader) look(ctx context.Context) error {
	const begin = "1:1:"
	if _, err := rd.query(ctx, firstPage, []int16{}, 0, begin, begin, 0); !errors.Is(err, errChanged) {
		return err
	}
	return nil
}

// query runs a statement that reads a page and looks. It returns [errChanged]
// if a lane that we held is not as we left it.
func (rd *reader) query(ctx context.Context, sql string, args ...any) ([]Row, error) {
	asked := time.Now()
	rows, err := rd.pool.Query(ctx, sql, append(args, rd.lease.owner, rd.lease.ttl.Seconds(), rd.limits.bytes)...)
	if err != nil {
		return nil, fmt.Errorf("read outbox: %w", err)
	}
	var found []Row
	var s sight
	var header []byte
	var r Row
	_, err = pgx.ForEachRow(rows, []any{&header, &r.Lane, &r.Seq, &r.Key, &r.MsgID, &r.Subject, &r.Headers, &r.Payload, &r.CreatedAt, &r.among}, func() error {
		if header != nil {
			return json.Unmarshal(header, &s)
		}
		found = append(found, r)
		r.Headers, r.Payload = nil, nil
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read outbox: %w", err)
	}
	return found, rd.note(asked, s)
}

// note compares what was seen with what we knew.
func (rd *reader) note(asked time.Time, s sight) error {
	known, left, changed := rd.lanes, rd.lease.ttl, false
	if s.Timeline != rd.timeline {
		// Another server was promoted, which may give out again the transaction
		// ids that we saw on the one before.
		known, changed, rd.flushed = nil, true, ""
	}
	first := len(rd.lanes) == 0
	rd.seen, rd.timeline, rd.lanes = s, s.Timeline, map[int16]*lane{}
	for _, v := range s.Lanes {
		switch old := known[v.Lane]; {
		case !v.Mine:
			changed = changed || old != nil
			continue
		case v.Ahead:
			return ErrRestored
		case old != nil && old.epoch == v.Epoch && old.stored == position{v.From, v.To, v.Pos}:
			rd.lanes[v.Lane] = old
		default: // our first look, or another relay has moved on
			changed = true
			p := position{v.From, v.To, v.Pos}
			rd.lanes[v.Lane] = &lane{id: v.Lane, epoch: v.Epoch, stored: p, now: p}
			rd.parking = parking{may: true, rows: rd.parking.rows, blocked: rd.parking.blocked}
		}
		if v.Left != nil && !slices.Contains(s.Renewed, v.Lane) {
			left = min(left, time.Duration(*v.Left*float64(time.Second)))
		}
	}
	if len(rd.lanes) == 0 {
		rd.lease.lost()
	} else {
		rd.lease.granted(asked, left)
	}
	if !changed {
		return nil
	}
	rd.long = nil
	if first {
		return nil
	}
	return errChanged
}

// skip ends a window without rows. It is remembered, not written: our own
// write would change the next snapshot, and we would never be idle. It is
// written after many transactions, so that nobody has to look through them all
// again, and if lanes stand apart, so that they meet.
//
// Only what is on disk is remembered. After a crash, Postgres gives out again
// the transaction ids of which no trace was on disk, and rows of theirs would
// seem to be older than the window. (A position that is written is safe: the
// transaction that wrote it has a later id.)
func (rd *reader) skip(ctx context.Context, p page) error {
	write := p.to != "" || !rd.seen.Durable && len(rd.groups()) > 1
	for _, id := range p.lanes {
		write = write || xmax(p.end)-xmax(rd.lanes[id].stored.from) > skipMost
	}
	if write {
		p.last = true
		return rd.settle(ctx, p, 0, nil)
	}
	if rd.seen.Durable {
		for _, id := range p.lanes {
			rd.lanes[id].now.from = p.end
		}
	}
	return nil
}

// skipMost is how many transactions are passed over without a note.
const skipMost = 10_000

// xmax is the first transaction that had not begun when a snapshot was taken.
func xmax(snapshot string) int64 {
	_, rest, _ := strings.Cut(snapshot, ":")
	id, _, _ := strings.Cut(rest, ":")
	n, _ := strconv.ParseInt(id, 10, 64) // Postgres wrote it
	return n
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
	begun := time.Now()
	err := rd.flush(ctx)
	if rd.guard != nil {
		rd.guard.Observe(time.Since(begun).Seconds())
	}
	return err
}

// flush puts the write-ahead log on disk, up to here. The update changes
// nothing.
func (rd *reader) flush(ctx context.Context) error {
	const q = `
		WITH durability AS MATERIALIZED (SELECT set_config('synchronous_commit', 'local', true))
		UPDATE outbox_lane SET pos = pos FROM durability WHERE lane = $1`
	if _, err := rd.pool.Exec(ctx, q, rd.held()[0]); err != nil {
		return fmt.Errorf("flush write-ahead log: %w", err)
	}
	return nil
}

package outbox

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
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
	pool *pgxpool.Pool

	stored   position // as we last saw or wrote it
	from     string   // A: stored.from, or a later snapshot up to which there was nothing
	haveSeen bool
}

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

// look takes a snapshot and reads the lane, in one statement: all an idle relay
// asks. The insert position, read after the snapshot was taken, is past the
// commit records of all that the snapshot can see.
const look = `
	SELECT pg_current_snapshot()::text, pg_current_wal_insert_lsn()::text, l.snap_from::text, l.snap_to::text, l.pos
	FROM outbox_lane l WHERE l.lane = $1`

// read returns a page of the window ($1, $2], after row $3. The rows are those
// whose transaction began after A was taken, found by range, and those whose
// transaction was in flight then, found one by one: they are few. The last
// column tells whether everything up to $5 is on disk.
const read = `
	SELECT seq, key, msg_id, subject, headers, payload, created_at, pg_current_wal_flush_lsn() >= $6::pg_lsn
	FROM (
		SELECT * FROM outbox
		WHERE xid >= pg_snapshot_xmax($1::pg_snapshot) AND xid < pg_snapshot_xmax($2::pg_snapshot)
		  AND pg_visible_in_snapshot(xid, $2::pg_snapshot)
		UNION ALL
		SELECT * FROM outbox
		WHERE xid = ANY (ARRAY(
			SELECT x FROM pg_snapshot_xip($1::pg_snapshot) AS x WHERE pg_visible_in_snapshot(x, $2::pg_snapshot)))
	) w
	WHERE lane = $4 AND seq > $3
	ORDER BY seq LIMIT $5`

// next returns the next page that may be published; an empty one if there is
// nothing.
func (rd *reader) next(ctx context.Context) (page, error) {
	var now, inserted string
	var stored position
	if err := rd.pool.QueryRow(ctx, look, lane).Scan(&now, &inserted, &stored.from, &stored.to, &stored.pos); err != nil {
		return page{}, fmt.Errorf("take outbox snapshot: %w", err)
	}
	if !rd.haveSeen || !stored.equal(rd.stored) { // our first look, or another relay has moved on
		rd.stored, rd.from, rd.haveSeen = stored, stored.from, true
	}
	p := page{from: rd.from, to: now}
	if stored.to != nil { // a window was begun: it keeps its bounds
		p.to, p.pos = *stored.to, stored.pos
	}
	if p.from == p.to {
		return p, nil // nothing happened in the whole cluster
	}
	durable, err := rd.read(ctx, &p, inserted)
	if err != nil {
		return page{}, err
	}
	if len(p.rows) == 0 {
		if stored.to != nil {
			return p, rd.settle(ctx, p, 0, nil) // the open window has ended
		}
		// Remembered, not written: our own write would change the next
		// snapshot, and we would never be idle.
		rd.from = p.to
		return p, nil
	}
	if !durable {
		if err := rd.awaitFlush(ctx, inserted); err != nil {
			return page{}, err
		}
	}
	return p, nil
}

func (rd *reader) read(ctx context.Context, p *page, inserted string) (durable bool, err error) {
	rows, err := rd.pool.Query(ctx, read, p.from, p.to, p.pos, lane, pageSize, inserted)
	if err != nil {
		return false, fmt.Errorf("read outbox: %w", err)
	}
	var r Row
	_, err = pgx.ForEachRow(rows, []any{&r.Seq, &r.Key, &r.MsgID, &r.Subject, &r.Headers, &r.Payload, &r.CreatedAt, &durable}, func() error {
		p.rows = append(p.rows, r)
		r.Headers, r.Payload = nil, nil
		return nil
	})
	if err != nil {
		return false, fmt.Errorf("read outbox: %w", err)
	}
	p.last = len(p.rows) < pageSize
	return durable, nil
}

// awaitFlush is the durability guard: a commit with synchronous_commit off is
// visible before it is on disk, and a crash may take it back. What is not
// durable yet is not published yet.
func (rd *reader) awaitFlush(ctx context.Context, lsn string) error {
	for delay := 500 * time.Microsecond; ; delay = min(2*delay, 20*time.Millisecond) {
		var flushed bool
		if err := rd.pool.QueryRow(ctx, `SELECT pg_current_wal_flush_lsn() >= $1::pg_lsn`, lsn).Scan(&flushed); err != nil {
			return fmt.Errorf("read flush position: %w", err)
		}
		if flushed {
			return nil
		}
		wait(ctx, nil, delay)
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
}

var errMoved = errors.New("another relay has moved the position: reading again")

// settle moves the stored position past the first done rows of the page, and
// stores the dead ones among them in the same transaction. It is a
// compare-and-set: if another relay has moved the position, nothing is written
// and an error is returned.
//
// The position is written with synchronous_commit off: losing the latest move
// in a crash means publishing some rows again, which their message ids make
// harmless. Dead letters are written with it on.
func (rd *reader) settle(ctx context.Context, p page, done int, dead []deadRow) error {
	next := position{from: p.to}
	if done < len(p.rows) || !p.last {
		next = position{from: p.from, to: &p.to, pos: p.rows[done-1].Seq}
	}
	const move = `
		WITH durability AS MATERIALIZED (SELECT set_config('synchronous_commit', $8, true))
		UPDATE outbox_lane SET snap_from = $1::pg_snapshot, snap_to = $2::pg_snapshot, pos = $3
		FROM durability
		WHERE lane = $4 AND snap_from::text = $5 AND snap_to::text IS NOT DISTINCT FROM $6 AND pos = $7`
	args := []any{next.from, next.to, next.pos, lane, rd.stored.from, rd.stored.to, rd.stored.pos, "off"}
	var err error
	if len(dead) == 0 {
		err = moved(rd.pool.Exec(ctx, move, args...))
	} else {
		args[7] = "on"
		err = pgx.BeginFunc(ctx, rd.pool, func(tx pgx.Tx) error {
			if err := insertDead(ctx, tx, dead); err != nil {
				return err
			}
			return moved(tx.Exec(ctx, move, args...))
		})
	}
	if err != nil {
		rd.haveSeen = false // the move may have happened: look again
		return fmt.Errorf("settle outbox: %w", err)
	}
	rd.stored, rd.from = next, next.from
	return nil
}

func moved(tag pgconn.CommandTag, err error) error {
	if err == nil && tag.RowsAffected() == 0 {
		return errMoved
	}
	return err
}

func insertDead(ctx context.Context, tx pgx.Tx, dead []deadRow) error {
	b := &pgx.Batch{}
	for _, d := range dead {
		b.Queue(`
			INSERT INTO outbox_dead (seq, lane, key, msg_id, subject, headers, payload, created_at, error)
			VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9) ON CONFLICT (seq) DO NOTHING`,
			d.row.Seq, lane, d.row.Key, d.row.MsgID, d.row.Subject, string(d.row.Headers), d.row.Payload, d.row.CreatedAt, d.err.Error())
	}
	return tx.SendBatch(ctx, b).Close()
}

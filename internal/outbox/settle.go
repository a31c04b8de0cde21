package outbox

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/jackc/pgx/v5"
)

var errMoved = errors.New("another relay has taken the lanes, or moved their position: looking again")

// settle moves the stored position of the page's lanes past its first done
// rows, and stores those that are set aside, dead or parked, in the same
// transaction. It is a compare-and-set: a lane that another relay has taken, or
// of which somebody has moved the position, is not written, nor is what would
// be set aside in it, and we hold it no more. If no lane is left an error is
// returned.
//
// The position is written with synchronous_commit off: losing the latest move
// in a crash means publishing some rows again, which their message ids make
// harmless. Rows that are set aside are written with it on.
func (rd *reader) settle(ctx context.Context, p page, done int, out []aside) error {
	next := position{from: p.end}
	if done < len(p.rows) || !p.last {
		next = position{from: p.from, to: p.end, pos: p.rows[done-1].Seq}
	}
	var moved []int16
	var err error
	if len(out) == 0 {
		moved, err = rd.move(ctx, rd.pool, p, next, "off")
	} else {
		err = pgx.BeginFunc(ctx, rd.pool, func(tx pgx.Tx) error {
			if moved, err = rd.move(ctx, tx, p, next, "on"); err != nil {
				return err
			}
			out = slices.DeleteFunc(slices.Clone(out), func(a aside) bool { return !slices.Contains(moved, a.row.Lane) })
			return setAside(ctx, tx, out)
		})
	}
	if err == nil && len(moved) == 0 {
		err = errMoved
	}
	if err != nil {
		rd.forget() // the move may have happened: look again
		return fmt.Errorf("settle outbox: %w", err)
	}
	for _, a := range out {
		if a.parked {
			rd.parking.may = true
			rd.parking.rows++
		}
	}
	for _, id := range p.lanes {
		if l := rd.lanes[id]; slices.Contains(moved, id) {
			l.stored, l.now = next, next
		} else {
			delete(rd.lanes, id)
			rd.todo, rd.long = nil, nil // they were of more lanes
		}
	}
	if next.to == "" {
		delete(rd.long, p.window())
	}
	rd.moves++
	return nil
}

// move writes the position and returns the lanes in which that was possible.
func (rd *reader) move(ctx context.Context, db querier, p page, next position, durability string) ([]int16, error) {
	const q = `
		WITH durability AS MATERIALIZED (SELECT set_config('synchronous_commit', $1, true))
		UPDATE outbox_lane l SET snap_from = $2::pg_snapshot, snap_to = nullif($3, '')::pg_snapshot, pos = $4
		FROM durability, unnest($5::smallint[], $6::bigint[], $7::text[], $8::text[], $9::bigint[]) AS h (lane, epoch, snap_from, snap_to, pos)
		WHERE l.lane = h.lane AND l.owner = $10 AND l.epoch = h.epoch
		  AND l.snap_from::text = h.snap_from AND coalesce(l.snap_to::text, '') = h.snap_to AND l.pos = h.pos
		RETURNING l.lane`
	var epochs, pos []int64
	var froms, tos []string
	for _, id := range p.lanes {
		l := rd.lanes[id]
		epochs, froms, tos, pos = append(epochs, l.epoch), append(froms, l.stored.from), append(tos, l.stored.to), append(pos, l.stored.pos)
	}
	rows, err := db.Query(ctx, q, durability, next.from, next.to, next.pos, p.lanes, epochs, froms, tos, pos, rd.lease.owner)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowTo[int16])
}

// setAside stores rows that leave the outbox without having been published. A
// row that is there already was rewound to.
func setAside(ctx context.Context, tx pgx.Tx, out []aside) error {
	b := &pgx.Batch{}
	for _, a := range out {
		table := "outbox_dead"
		if a.parked {
			table = "outbox_parked"
		}
		b.Queue(`
			INSERT INTO `+table+` (seq, lane, key, msg_id, subject, headers, payload, created_at, error)
			VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9) ON CONFLICT (seq) DO NOTHING`,
			a.row.Seq, a.row.Lane, a.row.Key, a.row.MsgID, a.row.Subject, string(a.row.Headers), a.row.Payload, a.row.CreatedAt, a.err.Error())
		if notice, wanted := undeliverable(a); wanted {
			Queue(b, []Message{notice})
		}
	}
	return tx.SendBatch(ctx, b).Close()
}

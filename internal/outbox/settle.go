package outbox

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

var errMoved = errors.New("another relay has moved the position: reading again")

// settle moves the stored position past the first done rows of the page, and
// stores those that are set aside, dead or parked, in the same transaction. It
// is a compare-and-set: if another relay has moved the position, nothing is
// written and an error is returned.
//
// The position is written with synchronous_commit off: losing the latest move
// in a crash means publishing some rows again, which their message ids make
// harmless. Rows that are set aside are written with it on.
func (rd *reader) settle(ctx context.Context, p page, done int, out []aside) error {
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
	if len(out) == 0 {
		err = moved(rd.pool.Exec(ctx, move, args...))
	} else {
		args[7] = "on"
		err = pgx.BeginFunc(ctx, rd.pool, func(tx pgx.Tx) error {
			if err := setAside(ctx, tx, out); err != nil {
				return err
			}
			return moved(tx.Exec(ctx, move, args...))
		})
	}
	if err != nil {
		rd.haveSeen = false // the move may have happened: look again
		return fmt.Errorf("settle outbox: %w", err)
	}
	for _, a := range out {
		if a.parked {
			rd.parking.may = true
			rd.parking.rows++
		}
	}
	rd.stored, rd.from, rd.moves = next, next.from, rd.moves+1
	return nil
}

func moved(tag pgconn.CommandTag, err error) error {
	if err == nil && tag.RowsAffected() == 0 {
		return errMoved
	}
	return err
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
			a.row.Seq, lane, a.row.Key, a.row.MsgID, a.row.Subject, string(a.row.Headers), a.row.Payload, a.row.CreatedAt, a.err.Error())
	}
	return tx.SendBatch(ctx, b).Close()
}

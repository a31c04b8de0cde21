package outbox

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// Rebased is what [Rebase] did, or would do.
type Rebased struct {
	Needed    bool  // the outbox was of another cluster
	Published int64 // messages that were published before the dump: they are not kept
	Waiting   int64 // messages that were not: they will be
}

// errLooked undoes what a rebase did, for one that only looks.
var errLooked = errors.New("only looking")

// Rebase makes an outbox that was restored into another cluster one that can be
// relayed. A dump carries transaction ids of the cluster that it was taken
// from; here they lie in the future, so that nothing would be found. What was
// not published gets ids of this cluster and keeps its order, and so does what
// was written since the restore; what was published goes. An outbox that is of
// this cluster is left as it is. Writers wait meanwhile.
//
// A row that was written here shows the transaction that wrote it, or a part of
// that, as its xmin; one that was restored shows the restore.
func Rebase(ctx context.Context, pool *pgxpool.Pool, onlyLook bool) (r Rebased, err error) {
	err = pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, `LOCK TABLE outbox IN SHARE ROW EXCLUSIVE MODE`); err != nil {
			return err
		}
		if err := tx.QueryRow(ctx, isAhead).Scan(&r.Needed); err != nil || !r.Needed {
			return err
		}
		tag, err := tx.Exec(ctx, dropPublished)
		if err != nil {
			return err
		}
		r.Published = tag.RowsAffected()
		if tag, err = tx.Exec(ctx, renumber); err != nil {
			return err
		}
		r.Waiting = tag.RowsAffected()
		if _, err := tx.Exec(ctx, beginHere); err != nil {
			return err
		}
		if onlyLook {
			return errLooked
		}
		return nil
	})
	if err != nil && !errors.Is(err, errLooked) {
		return Rebased{}, fmt.Errorf("rebase outbox: %w", err)
	}
	return r, nil
}

const (
	dropPublished = `
		DELETE FROM outbox o USING outbox_lane l
		WHERE o.lane = l.lane AND (pg_visible_in_snapshot(o.xid, l.snap_from)
		    OR l.snap_to IS NOT NULL AND o.seq <= l.pos AND pg_visible_in_snapshot(o.xid, l.snap_to))
		  AND NOT (o.xid <= pg_current_xact_id() AND o.xmin::text::bigint >= o.xid::text::bigint % 4294967296)`

	renumber = `UPDATE outbox SET xid = pg_current_xact_id()`

	// beginHere sets all lanes to a snapshot in which this very transaction is
	// in flight. pg_current_snapshot leaves it out, and once a later one has
	// ended it would seem to have ended too.
	beginHere = `
		WITH me AS (SELECT pg_current_snapshot() AS s, pg_current_xact_id()::text::bigint AS t),
		here AS (
			SELECT format('%s:%s:%s', least(pg_snapshot_xmin(s)::text::bigint, t), pg_snapshot_xmax(s), (
			  SELECT string_agg(x::text, ',' ORDER BY x) FROM (
			    SELECT x::text::bigint FROM pg_snapshot_xip(s) AS x UNION SELECT t WHERE t < pg_snapshot_xmax(s)::text::bigint) AS f (x)
			))::pg_snapshot AS snap FROM me
		),
		forgotten AS (DELETE FROM outbox_tick),
		noted AS (INSERT INTO outbox_tick (lane, taken_at, snap_from) SELECT lane, clock_timestamp(), snap FROM outbox_lane, here)
		UPDATE outbox_lane SET snap_from = snap, snap_to = NULL, pos = 0, owner = NULL, lease_until = NULL, epoch = epoch + 1 FROM here`
)

// isAhead says whether there are transaction ids that this cluster has not
// given out. Rows of transactions that began a moment ago are not visible here.
const isAhead = `
	SELECT EXISTS (SELECT FROM outbox_lane WHERE pg_snapshot_xmax(snap_from) > pg_snapshot_xmax(pg_current_snapshot()))
	    OR EXISTS (SELECT FROM outbox WHERE xid >= pg_snapshot_xmax(pg_current_snapshot()))`

package outbox

import (
	"context"
	"fmt"
	"math"
	"sort"

	"github.com/jackc/pgx/v5"
)

// long is where the next rows of a long window are. To find a page's rows takes
// a look at all rows of the window, in which they are in another order, and
// after an outage there are millions: so many pages are found by one such look,
// and if there are still more, the window is parted by one more look, so that
// what follows is found in a part of it. What is held does not grow with the
// window.
type long struct {
	after int64 // the list begins behind this row
	seqs  []int64
	xids  []uint64
	more  bool // rows follow behind the list

	listed bool // the beginning of the window was
	parts  []part
}

// part is so many rows of a window, up to the number last: those of
// transactions in a range, and of a few older ones. There are no more of those
// than transactions were running at a time.
type part struct {
	last        int64
	above, upTo uint64 // transactions
	older       []uint64
}

// partsMost bounds what is held of a window. If that is too few, a part is not
// listed at once.
const partsMost = 256

// window names the open window of a group.
func (g group) window() string { return fmt.Sprint(g.from, g.to, g.lanes) }

// longWindow returns what is known of the open window of a group.
func (rd *reader) longWindow(g group) *long {
	w := rd.long[g.window()]
	if w == nil {
		kept := map[string]*long{}
		for _, other := range rd.groups() { // of windows that have ended nothing is kept
			if l := rd.long[other.window()]; l != nil {
				kept[other.window()] = l
			}
		}
		w = &long{after: g.pos, more: true}
		kept[g.window()], rd.long = w, kept
	}
	return w
}

// find makes sure that the list begins with the next rows, if there are any.
func (w *long) find(ctx context.Context, rd *reader, g group) error {
	if g.pos < w.after { // set back
		*w = long{more: true}
	}
	past := sort.Search(len(w.seqs), func(i int) bool { return w.seqs[i] > g.pos })
	w.after, w.seqs, w.xids = g.pos, w.seqs[past:], w.xids[past:]
	for len(w.seqs) == 0 && w.more {
		if err := w.list(ctx, rd, g); err != nil {
			return fmt.Errorf("list outbox: %w", err)
		}
	}
	return nil
}

const (
	listWindow = `SELECT seq, xid FROM ` + window + ` ORDER BY seq LIMIT $5`

	listPart = `SELECT seq, xid FROM (
		SELECT seq, xid, lane FROM outbox WHERE xid > $3 AND xid <= $4 AND seq > $2 AND seq <= $5
		UNION ALL
		SELECT o.seq, o.xid, o.lane FROM unnest($6::xid8[]) AS x, LATERAL (
		  SELECT seq, xid, lane FROM outbox WHERE xid = x AND seq > $2 AND seq <= $5 OFFSET 0) o
		) w WHERE lane = ANY ($1::smallint[]) AND pg_visible_in_snapshot(xid, $7::pg_snapshot) ORDER BY seq LIMIT $8`

	splitWindow = `
		WITH rest AS MATERIALIZED (SELECT seq, xid::text::bigint AS xid FROM ` + window + `),
		cuts AS (
			SELECT percentile_disc(ARRAY(
			  SELECT n::float8 / k FROM (SELECT least($6, ceil(count(*)::float8 / $7)) AS k FROM rest) s, generate_series(1, k::int) AS n
			)) WITHIN GROUP (ORDER BY seq) AS at FROM rest
		),
		placed AS MATERIALIZED (SELECT width_bucket(seq - 1, at) AS part, seq, xid FROM rest, cuts),
		parts AS (
			SELECT part, max(seq) AS last, greatest(max(max(xid)) OVER (ORDER BY part), pg_snapshot_xmax($3::pg_snapshot)::text::bigint - 1) AS up_to
			FROM placed GROUP BY part
		),
		bounds AS (SELECT part, last, lag(up_to, 1, pg_snapshot_xmax($3::pg_snapshot)::text::bigint - 1) OVER (ORDER BY part) AS above, up_to FROM parts),
		older AS (SELECT part, array_agg(DISTINCT xid) AS xids FROM placed JOIN bounds USING (part) WHERE xid <= above GROUP BY part)
		SELECT last, above::text::xid8, up_to::text::xid8, coalesce(xids, '{}')::text[]::xid8[] FROM bounds LEFT JOIN older USING (part) ORDER BY part`
)

// list lists the next rows: of the whole window, or of the next part of it.
func (w *long) list(ctx context.Context, rd *reader, g group) error {
	most := rd.limits.list
	if !w.listed {
		w.listed = true
		n, err := w.add(rd.pool.Query(ctx, listWindow, g.lanes, g.pos, g.from, g.to, most))
		w.more = n == most
		return err
	}
	for len(w.parts) > 0 && w.parts[0].last <= g.pos {
		w.parts = w.parts[1:]
	}
	if len(w.parts) == 0 {
		if err := w.split(ctx, rd, g); err != nil || len(w.parts) == 0 {
			w.more = false
			return err
		}
	}
	p := w.parts[0]
	n, err := w.add(rd.pool.Query(ctx, listPart, g.lanes, g.pos, p.above, p.upTo, p.last, p.older, g.to, most))
	if n < most {
		w.parts = w.parts[1:]
	}
	w.more = len(w.parts) > 0
	return err
}

func (w *long) add(rows pgx.Rows, err error) (n int, _ error) {
	if err != nil {
		return 0, err
	}
	var seq int64
	var xid uint64
	_, err = pgx.ForEachRow(rows, []any{&seq, &xid}, func() error {
		w.seqs, w.xids, n = append(w.seqs, seq), append(w.xids, xid), n+1
		return nil
	})
	return n, err
}

// split parts the rest of the window by the numbers of its rows. The rows of a
// part are found by the range of transactions that begins where those of the
// parts before it end; the rest are of older transactions, which were still
// running when the rows before were numbered, and are named one by one. The
// server does it, and spills to its disk what is too much for memory.
func (w *long) split(ctx context.Context, rd *reader, g group) error {
	rows, err := rd.pool.Query(ctx, splitWindow, g.lanes, g.pos, g.from, g.to, math.MaxInt64, partsMost, rd.limits.list)
	if err != nil {
		return err
	}
	w.parts, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (p part, err error) {
		err = row.Scan(&p.last, &p.above, &p.upTo, &p.older)
		return p, err
	})
	return err
}

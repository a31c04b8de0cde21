package outbox

import (
	"context"
	"fmt"
	"slices"
)

// window finds the rows of lanes in a window after a row. They are those whose
// transaction began after A was taken, found by range, and those whose
// transaction was in flight then, found one by one: they are few. B is null if
// it is the snapshot of the statement itself.
const window = `
	(SELECT * FROM outbox
	 WHERE xid >= pg_snapshot_xmax($3::pg_snapshot) AND xid < pg_snapshot_xmax(coalesce($4::pg_snapshot, pg_current_snapshot()))
	   AND pg_visible_in_snapshot(xid, coalesce($4::pg_snapshot, pg_current_snapshot()))
	 UNION ALL
	 SELECT o.* FROM pg_snapshot_xip($3::pg_snapshot) AS x,
	   LATERAL (SELECT * FROM outbox WHERE xid = x AND lane = ANY ($1::smallint[]) AND seq > $2 ORDER BY seq LIMIT $5) o
	 WHERE pg_visible_in_snapshot(x, coalesce($4::pg_snapshot, pg_current_snapshot()))
	) w WHERE lane = ANY ($1::smallint[]) AND seq > $2`

// A page is cut where its payloads become too many bytes: each row comes with
// the number of bytes before it, and with the number of rows before the cut.
// Large payloads are stored apart, and read only of the rows that remain.
//
// The statement that reads a page also takes the snapshot up to which it reads,
// renews the lease and tells what has become of the lanes: from commit to
// publication a message waits for one answer of the database.
const (
	pageColumns = look + ` UNION ALL SELECT NULL, lane, seq, key, msg_id, subject, headers, payload, created_at, n FROM (
		SELECT *, sum(octet_length(payload)) OVER (ORDER BY seq ROWS UNBOUNDED PRECEDING) - octet_length(payload) AS before,
		       count(*) OVER () AS n
		FROM (SELECT * FROM `

	firstPage = pageColumns + window + ` ORDER BY seq LIMIT $5) w) p WHERE before < $8 ORDER BY seq`

	listPage = pageColumns + `outbox
		WHERE xid = ANY ($3::xid8[]) AND lane = ANY ($1::smallint[]) AND seq > $2 AND seq <= $4 ORDER BY seq LIMIT $5) w) p WHERE before < $8 ORDER BY seq`
)

// read reads a group's next page: of its open window, or of a new one, up to
// the present if that is wanted, else up to where the lanes meet.
func (rd *reader) read(ctx context.Context, g group, fresh bool) (page, error) {
	p := page{group: g, end: g.to}
	if g.to != "" {
		err := rd.readOn(ctx, &p)
		return p, err
	}
	var end *string
	if !fresh {
		end = &rd.until
	}
	var err error
	l := rd.limits
	if p.rows, err = rd.query(ctx, firstPage, g.lanes, g.pos, g.from, end, l.rows); err != nil {
		return p, err
	}
	if p.end = rd.seen.Now; !fresh {
		p.end = rd.until
	}
	n := 0
	if len(p.rows) > 0 {
		n = p.rows[0].among
	}
	p.last = n < l.rows && n == len(p.rows)
	return p, nil
}

// readOn reads the next page of a window of which there were pages before.
func (rd *reader) readOn(ctx context.Context, p *page) error {
	w := rd.longWindow(p.group)
	if err := w.find(ctx, rd, p.group); err != nil {
		return err
	}
	n := min(len(w.seqs), rd.limits.rows)
	if n == 0 {
		p.last = true
		return nil
	}
	xids := slices.Clone(w.xids[:n])
	slices.Sort(xids)
	var err error
	p.rows, err = rd.query(ctx, listPage, p.lanes, p.pos, slices.Compact(xids), w.seqs[n-1], n)
	if err != nil {
		return err
	}
	if len(p.rows) == 0 {
		defer func() { rd.long = nil }() // look again, or this would never end
		return fmt.Errorf("read outbox: somebody has deleted rows %d to %d", w.seqs[0], w.seqs[n-1])
	}
	p.last = !w.more && len(p.rows) == len(w.seqs)
	return nil
}

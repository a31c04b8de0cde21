package outbox

import (
	"context"
	"fmt"
	"slices"
	"sort"

	"github.com/jackc/pgx/v5"
)

// window finds the rows of the window ($1, $2] after row $3. They are those
// whose transaction began after A was taken, found by range, and those whose
// transaction was in flight then, found one by one: they are few.
const window = `
	(SELECT * FROM outbox
	 WHERE xid >= pg_snapshot_xmax($1::pg_snapshot) AND xid < pg_snapshot_xmax($2::pg_snapshot)
	   AND pg_visible_in_snapshot(xid, $2::pg_snapshot)
	 UNION ALL
	 SELECT o.* FROM pg_snapshot_xip($1::pg_snapshot) AS x,
	   LATERAL (SELECT * FROM outbox WHERE xid = x AND lane = $4 AND seq > $3 ORDER BY seq LIMIT $5) o
	 WHERE pg_visible_in_snapshot(x, $2::pg_snapshot)
	) w WHERE lane = $4 AND seq > $3`

// A page is cut where its payloads become too many bytes: each row comes with
// the number of bytes before it, and with the number of rows before the cut.
// Large payloads are stored apart, and read only of the rows that remain.
const (
	pageColumns = `SELECT seq, key, msg_id, subject, headers, payload, created_at, n FROM (
		SELECT *, sum(octet_length(payload)) OVER (ORDER BY seq ROWS UNBOUNDED PRECEDING) - octet_length(payload) AS before,
		       count(*) OVER () AS n
		FROM (SELECT * FROM `

	firstPage = pageColumns + window + ` ORDER BY seq LIMIT $5) w) p WHERE before < $6 ORDER BY seq`

	listPage = pageColumns + `outbox
		WHERE xid = ANY ($1::xid8[]) AND lane = $2 AND seq > $3 AND seq <= $4 ORDER BY seq LIMIT $5) w) p WHERE before < $6 ORDER BY seq`

	listWindow = `SELECT seq, xid FROM ` + window + ` ORDER BY seq LIMIT $5`
)

// read reads the first page of a window.
func (rd *reader) read(ctx context.Context, p *page) error {
	l := rd.limits
	n, err := rd.collect(ctx, p, firstPage, p.from, p.to, p.pos, lane, l.rows, l.bytes)
	p.last = n < l.rows && n == len(p.rows)
	return err
}

// list holds where the next rows of a long window are. To find a page's rows
// takes a look at all rows of the window, and after an outage there are
// millions: so many pages are found by one such look.
type list struct {
	from, to string // the window
	after    int64  // the list begins behind this row
	seqs     []int64
	xids     []uint64
	more     bool // rows follow behind the list
}

// readOn reads the next page of a window of which there were pages before.
func (rd *reader) readOn(ctx context.Context, p *page) error {
	l := &rd.listed
	l.trim(*p)
	if len(l.seqs) == 0 && (l.more || l.from != p.from || l.to != p.to) {
		if err := rd.list(ctx, *p); err != nil {
			return err
		}
	}
	n := min(len(l.seqs), rd.limits.rows)
	if n == 0 {
		p.last = true
		return nil
	}
	xids := slices.Clone(l.xids[:n])
	slices.Sort(xids)
	if _, err := rd.collect(ctx, p, listPage, slices.Compact(xids), lane, p.pos, l.seqs[n-1], n, rd.limits.bytes); err != nil {
		return err
	}
	if len(p.rows) == 0 {
		defer func() { rd.listed = list{} }() // look again, or this would never end
		return fmt.Errorf("read outbox: somebody has deleted rows %d to %d", l.seqs[0], l.seqs[n-1])
	}
	p.last = !l.more && len(p.rows) == len(l.seqs)
	return nil
}

// trim drops what the page is past, or everything if the list is not of the
// page's window.
func (l *list) trim(p page) {
	if l.from != p.from || l.to != p.to || p.pos < l.after {
		*l = list{}
		return
	}
	past := sort.Search(len(l.seqs), func(i int) bool { return l.seqs[i] > p.pos })
	l.after, l.seqs, l.xids = p.pos, l.seqs[past:], l.xids[past:]
}

func (rd *reader) list(ctx context.Context, p page) error {
	rows, err := rd.pool.Query(ctx, listWindow, p.from, p.to, p.pos, lane, rd.limits.list)
	if err != nil {
		return fmt.Errorf("list outbox: %w", err)
	}
	l := list{from: p.from, to: p.to, after: p.pos}
	var seq int64
	var xid uint64
	_, err = pgx.ForEachRow(rows, []any{&seq, &xid}, func() error {
		l.seqs, l.xids = append(l.seqs, seq), append(l.xids, xid)
		return nil
	})
	if err != nil {
		return fmt.Errorf("list outbox: %w", err)
	}
	l.more = len(l.seqs) == rd.limits.list
	rd.listed = l
	return nil
}

// collect runs a query for a page's rows. It returns how many there would be
// but for their size.
func (rd *reader) collect(ctx context.Context, p *page, query string, args ...any) (n int, err error) {
	rows, err := rd.pool.Query(ctx, query, args...)
	if err != nil {
		return 0, fmt.Errorf("read outbox: %w", err)
	}
	var r Row
	_, err = pgx.ForEachRow(rows, []any{&r.Seq, &r.Key, &r.MsgID, &r.Subject, &r.Headers, &r.Payload, &r.CreatedAt, &n}, func() error {
		p.rows = append(p.rows, r)
		r.Headers, r.Payload = nil, nil
		return nil
	})
	if err != nil {
		return 0, fmt.Errorf("read outbox: %w", err)
	}
	return n, nil
}

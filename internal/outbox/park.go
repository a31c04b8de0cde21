package outbox

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
)

// parking is what a reader knows of the parked rows of its lanes: rows that the
// broker does not take now, and those of their keys behind them.
//
// To miss one would be to let a later row of its key overtake it. None is
// missed: rows are parked in the transaction that moves the position, and when
// somebody else has moved it, we look again.
type parking struct {
	may     bool      // there may be some
	rows    int       // as last counted
	blocked time.Time // since when nothing was acknowledged and something blocked; zero: not so

	sweep sweep
	next  time.Time // of the next sweep
	pause time.Duration
}

// sweep is one way through all parked rows, a page at a time.
type sweep struct {
	after   int64    // rows up to this id were offered
	refused []string // subjects that were blocked meanwhile: their rows are not offered
	taken   int
}

const (
	sweepFirst  = 100 * time.Millisecond // after rows were parked
	sweepMost   = 5 * time.Second
	refusedMost = 100 // subjects that a sweep remembers
)

var errBehind = errors.New("an earlier message of this key is parked")

// offer hands rows to the publisher, except those of keys of which rows are
// parked: they are blocked too.
func (rd *reader) offer(ctx context.Context, publisher Publisher, rows []Row) ([]Result, error) {
	if !rd.parking.may {
		return publisher.Publish(ctx, rows), nil
	}
	keys := make(map[string]struct{}, len(rows))
	for _, r := range rows {
		keys[r.Key] = struct{}{}
	}
	found, err := rd.pool.Query(ctx, `SELECT DISTINCT key FROM outbox_parked WHERE key = ANY ($1)`, slices.Collect(maps.Keys(keys)))
	if err != nil {
		return nil, fmt.Errorf("look for parked keys: %w", err)
	}
	parked, err := pgx.CollectRows(found, pgx.RowTo[string])
	if err != nil {
		return nil, fmt.Errorf("look for parked keys: %w", err)
	}
	results := make([]Result, len(rows))
	var free []Row
	var places []int
	for i, r := range rows {
		if slices.Contains(parked, r.Key) {
			results[i] = Result{Err: errBehind, Blocked: true}
			continue
		}
		free, places = append(free, r), append(places, i)
	}
	if len(free) > 0 {
		for i, res := range publisher.Publish(ctx, free) {
			results[places[i]] = res
		}
	}
	return results, nil
}

// mayPark is the breaker. When the broker takes nothing at all, its streams
// are most likely about to come back, and to park everything would only be
// work: the rows wait where they are, for a while. Nor are more rows parked
// than the limit.
func (rd *reader) mayPark(results []Result, now time.Time) bool {
	pk, refused, behind := &rd.parking, 0, 0
	for _, res := range results {
		switch {
		case res.Err == nil:
			pk.blocked = time.Time{}
			return pk.rows < rd.limits.parked
		case errors.Is(res.Err, errBehind):
			behind++
		case res.Blocked:
			refused++
		}
	}
	if refused == 0 {
		return behind == 0 || pk.rows < rd.limits.parked
	}
	if pk.blocked.IsZero() {
		pk.blocked = now
	}
	return now.Sub(pk.blocked) >= rd.limits.patience && pk.rows < rd.limits.parked
}

// parkedRow is a row with its place among the parked.
type parkedRow struct {
	id  int64
	row Row
}

// retry offers the next page of the parked rows that may go, if it is time. It
// returns how many went.
func (r *Relay) retry(ctx context.Context, rd *reader) (int, error) {
	pk := &rd.parking
	if !pk.may || time.Now().Before(pk.next) {
		return 0, nil
	}
	page, err := rd.readParked(ctx)
	if err != nil {
		return 0, err
	}
	if len(page) == 0 {
		return 0, rd.endSweep(ctx)
	}
	rows := make([]Row, len(page))
	for i := range page {
		rows[i] = page[i].row
	}
	results := r.Publisher.Publish(ctx, rows)
	r.Metrics.offer(results)
	gone, dead, failed := pk.sweep.judge(page, results)
	for i, res := range results {
		if res.Err == nil || res.Poison {
			r.observe(rows[i:i+1], results[i:i+1])
		}
	}
	if err := rd.unpark(context.WithoutCancel(ctx), gone, dead); err != nil {
		return 0, err
	}
	r.logDead(ctx, dead)
	if failed != nil {
		return len(gone), errors.Join(failed, rd.endSweep(ctx))
	}
	return len(gone), nil
}

// judge finds which rows can go, and which of them are dead. It returns an
// error if the broker is away: what fails is then not of one subject.
func (s *sweep) judge(page []parkedRow, results []Result) (gone []int64, dead []aside, failed error) {
	blocked := map[string]bool{}
	for i, res := range results {
		row := page[i].row
		switch {
		case res.Err == nil:
			gone = append(gone, page[i].id)
		case res.Poison:
			gone, dead = append(gone, page[i].id), append(dead, aside{row: row, err: res.Err})
		case res.Blocked:
			blocked[row.Key] = true
			if len(s.refused) < refusedMost && !slices.Contains(s.refused, row.Subject) {
				s.refused = append(s.refused, row.Subject)
			}
		case !blocked[row.Key]:
			failed = res.Err
		}
	}
	s.after = page[len(page)-1].id
	s.taken += len(gone)
	return gone, dead, failed
}

// readParked reads the next page of a sweep: rows of which no earlier one of
// the same key was offered and is still there, or would have to be refused.
func (rd *reader) readParked(ctx context.Context) ([]parkedRow, error) {
	const q = `
		SELECT id, lane, seq, key, msg_id, subject, headers, payload, created_at FROM (
			SELECT *, sum(octet_length(payload)) OVER (ORDER BY id ROWS UNBOUNDED PRECEDING) - octet_length(payload) AS before FROM (
				SELECT * FROM outbox_parked p
				WHERE lane = ANY ($1) AND id > $2 AND subject <> ALL ($3) AND NOT EXISTS (
				  SELECT FROM outbox_parked e WHERE e.key = p.key AND e.id < p.id AND (e.id <= $2 OR e.subject = ANY ($3)))
				ORDER BY id LIMIT $4) p) p
		WHERE before < $5 ORDER BY id`
	s := rd.parking.sweep
	rows, err := rd.pool.Query(ctx, q, rd.held(), s.after, append([]string{}, s.refused...), rd.limits.rows, rd.limits.bytes)
	if err != nil {
		return nil, fmt.Errorf("read parked rows: %w", err)
	}
	page, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (p parkedRow, err error) {
		r := &p.row
		err = row.Scan(&p.id, &r.Lane, &r.Seq, &r.Key, &r.MsgID, &r.Subject, &r.Headers, &r.Payload, &r.CreatedAt)
		return p, err
	})
	if err != nil {
		return nil, fmt.Errorf("read parked rows: %w", err)
	}
	return page, nil
}

// endSweep counts what is left and decides when to try again: soon, if
// something was taken.
func (rd *reader) endSweep(ctx context.Context) error {
	pk := &rd.parking
	if err := rd.pool.QueryRow(ctx, `SELECT count(*) FROM outbox_parked WHERE lane = ANY ($1)`, rd.held()).Scan(&pk.rows); err != nil {
		return fmt.Errorf("count parked rows: %w", err)
	}
	pk.pause = min(2*max(pk.pause, sweepFirst/2), sweepMost)
	if pk.sweep.taken > 0 {
		pk.pause, pk.blocked = sweepFirst, time.Time{}
	}
	pk.may, pk.sweep, pk.next = pk.rows > 0, sweep{}, time.Now().Add(pk.pause)
	return nil
}

// unpark takes away what was published, and what never will be.
func (rd *reader) unpark(ctx context.Context, ids []int64, dead []aside) error {
	if len(ids) == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, settleTimeout)
	defer cancel()
	err := pgx.BeginFunc(ctx, rd.pool, func(tx pgx.Tx) error {
		if err := setAside(ctx, tx, dead); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, `DELETE FROM outbox_parked WHERE id = ANY ($1)`, ids)
		return err
	})
	if err != nil {
		return fmt.Errorf("settle parked rows: %w", err)
	}
	return nil
}

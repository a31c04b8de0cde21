package outbox

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
)

const (
	slots         = 4                // parts of the ring
	defaultRetain = 30 * time.Minute // far more than the two minutes for which NATS keeps in memory what it has acknowledged
	keepEvery     = 5 * time.Second
	keepIdle      = 30 * time.Second // while nothing is published
	keepTimeout   = 10 * time.Second
)

// ring keeps house: it notes when what was published, and turns the ring of
// four parts so that the outbox stays as small as what is to be kept. Nothing
// is ever deleted row by row, so there is nothing to vacuum.
type ring struct {
	pool    *pgxpool.Pool
	retain  time.Duration // how long rows are kept after their publication
	log     *slog.Logger
	metrics *Metrics

	kept  time.Time // when we last kept house
	calm  bool      // and found nothing to do
	noted int       // of the reader's moves
}

// keep does what is due. What fails is tried again the next time: writers go
// on in the part in which they are.
func (g *ring) keep(ctx context.Context, moves int) {
	since := time.Since(g.kept)
	if ctx.Err() != nil || since < keepEvery || g.calm && g.noted == moves && since < keepIdle {
		return
	}
	g.kept = time.Now()
	ctx, cancel := context.WithTimeout(ctx, keepTimeout)
	defer cancel()
	err := g.note(ctx, moves)
	outcome := notDue
	if err == nil {
		outcome, err = g.turn(ctx)
	}
	g.calm = outcome == notDue && err == nil
	switch {
	case err != nil:
		g.metrics.turns.WithLabelValues("failed").Inc()
		g.log.WarnContext(ctx, "the outbox ring could not be turned", "err", err, "retry_in", keepEvery)
	case outcome == turned:
		g.metrics.turns.WithLabelValues("turned").Inc()
		g.log.InfoContext(ctx, "turned the outbox ring")
	case outcome != notDue:
		g.metrics.turns.WithLabelValues("skipped").Inc()
		g.metrics.skips.WithLabelValues(skipReasons[outcome]).Inc()
		g.log.DebugContext(ctx, "the outbox ring cannot be turned yet", "reason", string(outcome))
	}
}

// note records how far was published by now, if it has moved.
func (g *ring) note(ctx context.Context, moves int) error {
	if g.noted == moves {
		return nil
	}
	const q = `
		INSERT INTO outbox_tick (lane, snap_from) SELECT l.lane, l.snap_from FROM outbox_lane l
		WHERE l.snap_from::text IS DISTINCT FROM
		  (SELECT t.snap_from::text FROM outbox_tick t WHERE t.lane = l.lane ORDER BY t.taken_at DESC LIMIT 1)
		ON CONFLICT DO NOTHING`
	if _, err := g.pool.Exec(ctx, q); err != nil {
		return fmt.Errorf("note the time of publication: %w", err)
	}
	g.noted = moves
	return nil
}

// turning is what came of an attempt to turn the ring.
type turning string

const (
	turned   turning = "turned"
	notDue   turning = "not due"
	atWork   turning = "another relay is at it"
	tooYoung turning = "the next part has rows that are not published, or not long enough"
	inUse    turning = "somebody is reading or writing the next part"
)

// turn empties the next part of the ring and makes it the current one. A third
// of the time that rows are kept is written to one part; when its turn comes
// again, the other three have been written meanwhile.
//
// Nobody waits for it: the lock is taken only if it can be had at once, and
// writers are in another part. Under the lock there is no transaction that
// has written to the part and not ended, so what is then found there is all
// there is. (A writer with an old view of the ring may still write to it
// later: rows are found by their transaction, in whatever part they are.)
func (g *ring) turn(ctx context.Context) (outcome turning, err error) {
	next, err := g.next(ctx, g.pool, dueNow) // locks nothing and writes nothing: mostly there is nothing to do
	if err != nil || next < 0 {
		return notDue, err
	}
	if young, err := g.young(ctx, g.pool, next); err != nil || young {
		return tooYoung, err
	}
	err = pgx.BeginFunc(ctx, g.pool, func(tx pgx.Tx) error {
		outcome, err = g.turnLocked(ctx, tx)
		return err
	})
	var pgErr *pgconn.PgError
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return atWork, nil
	case errors.As(err, &pgErr) && pgErr.Code == "55P03": // lock_not_available
		return inUse, nil
	}
	return outcome, err
}

func (g *ring) turnLocked(ctx context.Context, tx pgx.Tx) (turning, error) {
	next, err := g.next(ctx, tx, dueNow+` FOR UPDATE SKIP LOCKED`)
	if err != nil || next < 0 {
		return notDue, err
	}
	if _, err := tx.Exec(ctx, fmt.Sprintf(lockPart, next)); err != nil {
		return "", fmt.Errorf("lock the next part: %w", err)
	}
	if young, err := g.young(ctx, tx, next); err != nil || young {
		return tooYoung, err
	}
	return turned, empty(ctx, tx, next)
}

const (
	// dueNow asks which part is written and whether it was for long enough. A
	// lock on the row keeps other relays out, and no writer.
	dueNow = `SELECT current_slot, switched_at + make_interval(secs => $1) <= clock_timestamp() FROM outbox_ring`

	lockPart = `LOCK TABLE outbox_%d IN ACCESS EXCLUSIVE MODE NOWAIT`
)

// next returns the part to be written next, or -1 if it is not time, or if
// nothing was written to the current one.
func (g *ring) next(ctx context.Context, db querier, due string) (int, error) {
	var slot int
	var is bool
	if err := db.QueryRow(ctx, due, (g.retain/(slots-1)).Seconds()).Scan(&slot, &is); err != nil {
		return -1, fmt.Errorf("read outbox ring: %w", err)
	}
	if !is {
		return -1, nil
	}
	if err := db.QueryRow(ctx, fmt.Sprintf(`SELECT EXISTS (SELECT FROM outbox_%d)`, slot)).Scan(&is); err != nil || !is {
		return -1, err
	}
	return (slot + 1) % slots, nil
}

// young says whether a part has rows that were not published, or too short a
// time ago.
func (g *ring) young(ctx context.Context, db querier, slot int) (young bool, err error) {
	if err := db.QueryRow(ctx, fmt.Sprintf(hasYoung, slot), g.retain.Seconds()).Scan(&young); err != nil {
		return false, fmt.Errorf("look into part %d: %w", slot, err)
	}
	return young, nil
}

// querier is a pool or a transaction.
type querier interface {
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}

const (
	// unread says whether a part has rows of the lane s.lane that are not
	// visible in s.snap. ORDER BY and OFFSET make the index answer, whatever the
	// planner thinks of the table.
	unread = `coalesce(
		(SELECT true FROM outbox_%[1]d o WHERE o.xid >= pg_snapshot_xmax(s.snap) AND o.lane = s.lane ORDER BY o.xid DESC LIMIT 1),
		(SELECT true FROM pg_snapshot_xip(s.snap) x,
		   LATERAL (SELECT FROM outbox_%[1]d o WHERE o.xid = x AND o.lane = s.lane ORDER BY o.xid, o.seq OFFSET 0) o LIMIT 1),
		false)`

	// hasYoung asks that of each lane's position and of its position a while
	// ago. If none was noted then, every row is young.
	hasYoung = `
		SELECT EXISTS (SELECT FROM (
			SELECT lane, snap_from FROM outbox_lane
			UNION ALL
			SELECT lane, coalesce((
				SELECT t.snap_from FROM outbox_tick t
				WHERE t.lane = l.lane AND t.taken_at <= clock_timestamp() - make_interval(secs => $1)
				ORDER BY t.taken_at DESC LIMIT 1), '3:3:') FROM outbox_lane l
		) s (lane, snap) WHERE ` + unread + `)`
)

// empty takes the rows of a part away, and the notes that would need them.
func empty(ctx context.Context, tx pgx.Tx, slot int) error {
	for _, q := range []string{
		`DELETE FROM outbox_tick t USING (SELECT lane, taken_at, snap_from FROM outbox_tick) s (lane, taken_at, snap)
		 WHERE t.lane = s.lane AND t.taken_at = s.taken_at AND ` + unread,
		`TRUNCATE outbox_%[1]d`,
		`UPDATE outbox_ring SET current_slot = %[1]d, switched_at = clock_timestamp()`,
	} {
		if _, err := tx.Exec(ctx, fmt.Sprintf(q, slot)); err != nil {
			return fmt.Errorf("empty part %d: %w", slot, err)
		}
	}
	return nil
}

package outbox

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// Status is how an outbox is.
type Status struct {
	Lanes []LaneStatus `json:"lanes"`
	Ring  []PartStatus `json:"ring"`
}

// LaneStatus is how one lane is.
type LaneStatus struct {
	Lane      int        `json:"lane"`
	Backlog   int        `json:"backlog"` // rows to publish, counted up to a million
	Oldest    *time.Time `json:"oldest"`  // when the first of them was written; nil: there is none
	Dead      int        `json:"dead"`
	Parked    int        `json:"parked"`
	KeptSince *time.Time `json:"kept_since"` // what was published since then is still there; nil: not known
	Position  string     `json:"position"`   // everything visible in this snapshot was published
	Window    *string    `json:"window"`     // the snapshot that ends the window at hand; nil: none
	Pos       int64      `json:"pos"`        // of the window's rows, those up to this number were published
	Owner     string     `json:"owner"`      // the relay that publishes the lane, or last did; empty: it was let go
	Leased    bool       `json:"leased"`     // and it still does
	Epoch     int64      `json:"epoch"`      // how many owners the lane has had
}

// PartStatus is how one part of the ring is.
type PartStatus struct {
	Part    int   `json:"part"`
	Bytes   int64 `json:"bytes"`
	Current bool  `json:"current"` // writers write here
}

const (
	countMost = 1_000_000

	countWindow = `SELECT count(*), min(created_at) FROM (SELECT created_at FROM ` + window + ` LIMIT $5) w`
)

// ReadStatus looks at an outbox. It changes nothing.
func ReadStatus(ctx context.Context, pool *pgxpool.Pool) (Status, error) {
	var s Status
	err := pgx.BeginTxFunc(ctx, pool, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}, func(tx pgx.Tx) error {
		rows, err := tx.Query(ctx, `
			SELECT l.lane, 0, NULL::timestamptz, (SELECT count(*) FROM outbox_dead d WHERE d.lane = l.lane),
			       (SELECT count(*) FROM outbox_parked p WHERE p.lane = l.lane),
			       (SELECT min(t.taken_at) FROM outbox_tick t WHERE t.lane = l.lane), l.snap_from::text, l.snap_to::text, l.pos,
			       coalesce(l.owner, ''), coalesce(l.lease_until > clock_timestamp(), false), l.epoch
			FROM outbox_lane l ORDER BY l.lane`)
		if err != nil {
			return err
		}
		if s.Lanes, err = pgx.CollectRows(rows, pgx.RowToStructByPos[LaneStatus]); err != nil {
			return err
		}
		for i := range s.Lanes {
			if err := s.Lanes[i].count(ctx, tx); err != nil {
				return err
			}
		}
		rows, err = tx.Query(ctx, `
			SELECT n, pg_total_relation_size(format('outbox_%s', n)::regclass), n = r.current_slot
			FROM generate_series(0, 3) AS n, outbox_ring r ORDER BY n`)
		if err != nil {
			return err
		}
		s.Ring, err = pgx.CollectRows(rows, pgx.RowToStructByPos[PartStatus])
		return err
	})
	if err != nil {
		return Status{}, fmt.Errorf("read outbox status: %w", err)
	}
	return s, nil
}

// count counts what waits: the rest of the window at hand, and what was
// committed since.
func (l *LaneStatus) count(ctx context.Context, tx pgx.Tx) error {
	var now string
	if err := tx.QueryRow(ctx, `SELECT pg_current_snapshot()::text`).Scan(&now); err != nil {
		return err
	}
	from, pos := l.Position, int64(0)
	ends := []string{now}
	if l.Window != nil {
		ends, pos = []string{*l.Window, now}, l.Pos
	}
	for _, to := range ends {
		var n int
		var oldest *time.Time
		if err := tx.QueryRow(ctx, countWindow, []int16{int16(l.Lane)}, pos, from, to, countMost-l.Backlog).Scan(&n, &oldest); err != nil {
			return err
		}
		l.Backlog += n
		if oldest != nil && (l.Oldest == nil || oldest.Before(*l.Oldest)) {
			l.Oldest = oldest
		}
		from, pos = to, 0
	}
	return nil
}

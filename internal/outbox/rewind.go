package outbox

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// Rewound is what [Rewind] did to one lane.
type Rewound struct {
	Lane     int
	To       time.Time // all that was published since then is published again
	Complete bool      // To is not later than what was asked for
}

// ErrNothingNoted says that it is not known when what was published.
var ErrNothingNoted = errors.New("it is not noted when messages were published: no relay has kept this outbox since it was made or re-based")

// Rewind makes relays publish again what was published since then, in one lane
// or, if that is nil, in all: at a time,
// or if that is zero so long ago on the database's clock. What is no longer
// kept stays away. Relays at work notice it; none can move the position on from
// where it was, because pos is set to a number that no position had before.
func Rewind(ctx context.Context, pool *pgxpool.Pool, lane *int, at time.Time, ago time.Duration) ([]Rewound, error) {
	const q = `
		WITH moment AS (SELECT coalesce($1, clock_timestamp() - make_interval(secs => $2)) AS at),
		target AS (
			SELECT DISTINCT ON (t.lane) t.lane, t.taken_at, t.snap_from, t.taken_at <= m.at AS complete
			FROM outbox_tick t, moment m WHERE $3::int IS NULL OR t.lane = $3
			ORDER BY t.lane, t.taken_at <= m.at DESC, CASE WHEN t.taken_at <= m.at THEN m.at - t.taken_at ELSE t.taken_at - m.at END
		), forgotten AS (
			DELETE FROM outbox_tick t USING target g WHERE t.lane = g.lane AND t.taken_at > g.taken_at
		)
		UPDATE outbox_lane l SET snap_from = g.snap_from, snap_to = NULL, pos = -(extract(epoch FROM now()) * 1000000)::bigint
		FROM target g WHERE l.lane = g.lane
		RETURNING l.lane, g.taken_at, g.complete`
	var moment *time.Time
	if !at.IsZero() {
		moment = &at
	}
	var lanes []Rewound
	err := pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error {
		// While this is locked, no part of the ring is emptied.
		if _, err := tx.Exec(ctx, `SELECT FROM outbox_ring FOR UPDATE`); err != nil {
			return err
		}
		// Relays change several lanes in one statement, in whatever order: to
		// lock them one by one would be to meet half-way.
		if _, err := tx.Exec(ctx, `LOCK TABLE outbox_lane IN SHARE ROW EXCLUSIVE MODE`); err != nil {
			return err
		}
		rows, err := tx.Query(ctx, q, moment, ago.Seconds(), lane)
		if err != nil {
			return err
		}
		lanes, err = pgx.CollectRows(rows, pgx.RowToStructByPos[Rewound])
		if err == nil && len(lanes) == 0 {
			err = ErrNothingNoted
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("rewind outbox: %w", err)
	}
	return lanes, nil
}

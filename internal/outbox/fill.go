package outbox

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5/pgxpool"
)

// Fill is about how much waits in an outbox.
type Fill struct {
	Rows  int64 // parked ones too
	Bytes int64 // that they take in the ring; parked rows are few and not counted
}

// fill looks where each part of the ring begins and ends, and how far each lane
// is: some twenty looks into indexes, however much waits. Numbers that were
// drawn and never committed are counted, and a lane's rows are taken for an
// equal share of all. Parked rows are counted one by one: they are bounded.
const fill = `
	WITH part AS (
		SELECT p.bytes::float8 AS bytes, least(p.a, p.b) - 1 AS head, greatest(p.a, p.b) AS tail FROM (VALUES
		  (pg_table_size('outbox_0'), (SELECT seq FROM outbox_0 ORDER BY xid, seq LIMIT 1), (SELECT seq FROM outbox_0 ORDER BY xid DESC, seq DESC LIMIT 1)),
		  (pg_table_size('outbox_1'), (SELECT seq FROM outbox_1 ORDER BY xid, seq LIMIT 1), (SELECT seq FROM outbox_1 ORDER BY xid DESC, seq DESC LIMIT 1)),
		  (pg_table_size('outbox_2'), (SELECT seq FROM outbox_2 ORDER BY xid, seq LIMIT 1), (SELECT seq FROM outbox_2 ORDER BY xid DESC, seq DESC LIMIT 1)),
		  (pg_table_size('outbox_3'), (SELECT seq FROM outbox_3 ORDER BY xid, seq LIMIT 1), (SELECT seq FROM outbox_3 ORDER BY xid DESC, seq DESC LIMIT 1))
		) AS p (bytes, a, b) WHERE p.a IS NOT NULL
	), lane AS (
		SELECT greatest(l.pos, w.seq - 1) AS done FROM outbox_lane l, LATERAL (
			SELECT o.seq FROM outbox o WHERE o.xid >= pg_snapshot_xmax(l.snap_from) ORDER BY o.xid, o.seq LIMIT 1) w
	), waiting AS (
		SELECT greatest(0, p.tail - greatest(p.head, l.done))::float8 / (SELECT count(*) FROM outbox_lane) AS n, p.bytes / (p.tail - p.head) AS each
		FROM part p, lane l
	)
	SELECT coalesce(sum(n), 0)::bigint + (SELECT count(*) FROM (SELECT FROM outbox_parked LIMIT $1) p), coalesce(sum(n * each), 0)::bigint FROM waiting`

// ReadFill estimates how much waits.
func ReadFill(ctx context.Context, pool *pgxpool.Pool) (Fill, error) {
	var f Fill
	if err := pool.QueryRow(ctx, fill, countMost).Scan(&f.Rows, &f.Bytes); err != nil {
		return Fill{}, fmt.Errorf("estimate what waits in the outbox: %w", err)
	}
	return f, nil
}

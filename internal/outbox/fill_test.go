package outbox

import (
	"testing"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/skald-saga/skald/internal/testkit"
)

func wantFill(t *testing.T, pool *pgxpool.Pool, what string, rows, bytesFrom, bytesTo int64) {
	t.Helper()
	f, err := ReadFill(t.Context(), pool)
	if err != nil {
		t.Fatal(err)
	}
	if f.Rows != rows || f.Bytes < bytesFrom || f.Bytes > bytesTo {
		t.Errorf("%s: %+v, want %d rows and %d to %d bytes", what, f, rows, bytesFrom, bytesTo)
	}
}

// P11: what waits is known without counting it: over all parts of the ring, in
// the middle of a window, with what was published and is kept left out.
func TestWhatWaitsIsEstimated(t *testing.T) {
	t.Parallel()
	pool := testkit.Postgres(t)
	const many = `INSERT INTO outbox (key, subject, payload) SELECT 'k' || i % 7, 's.a', convert_to(repeat(md5(i::text), 30), 'UTF8') FROM generate_series(1, $1) i`
	wantFill(t, pool, "empty", 0, 0, 0)
	execute(t, pool, many, 1000)
	wantFill(t, pool, "written", 1000, 900_000, 1_500_000)
	relay := newStepper(t, pool, limits{rows: 100, bytes: 1 << 20, list: 200})
	for range 3 {
		relay.pass(t)
	}
	wantFill(t, pool, "in the middle of a window", 700, 600_000, 1_100_000)
	execute(t, pool, many, 200)
	wantFill(t, pool, "behind the window too", 900, 800_000, 1_400_000)
	relay.drain(t)
	wantFill(t, pool, "published", 0, 0, 0)
	execute(t, pool, `UPDATE outbox_ring SET current_slot = 1`)
	execute(t, pool, many, 500)
	wantFill(t, pool, "in another part", 500, 400_000, 800_000)
	execute(t, pool, `
		INSERT INTO outbox_parked (seq, lane, key, msg_id, subject, headers, payload, created_at, error)
		SELECT -i, 0, 'p', gen_random_uuid(), 's', '{}', '', now(), 'full' FROM generate_series(1, 9) i`)
	wantFill(t, pool, "and parked", 509, 400_000, 800_000)
}

// P11: lanes share what waits.
func TestWhatWaitsIsEstimatedOverLanes(t *testing.T) {
	t.Parallel()
	pool := testkit.Postgres(t)
	execute(t, pool, `SELECT outbox_set_lanes(4)`)
	execute(t, pool, `INSERT INTO outbox (key, subject, payload) SELECT 'k' || i % 97, 's.a', 'p' FROM generate_series(1, 1000) i`)
	wantFill(t, pool, "written", 1000, 100_000, 300_000)
	relay := newStepper(t, pool)
	relay.drain(t)
	wantFill(t, pool, "published", 0, 0, 0)
}

package coordinator_test

import (
	"testing"
	"time"

	"github.com/skald-saga/skald/internal/outbox"
)

// P2: in a dump that was restored into another cluster, open sagas refer to
// transactions of the old one. When the outbox was rebased their timeouts fire
// all the same.
func TestTimeoutsFireAfterARestore(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.start()
	first := f.only()
	f.published()
	for _, sql := range []string{ // the ids of another cluster, all the same distance ahead
		`UPDATE outbox_lane SET snap_to = NULL, snap_from = (SELECT format('%s:%s:', x, x)
			FROM (SELECT pg_snapshot_xmax(snap_from)::text::bigint + 1000000 AS x) ids)::pg_snapshot`,
		`UPDATE outbox SET xid = (xid::text::bigint + 1000000)::text::xid8`,
		`UPDATE saga SET command_xid = (command_xid::text::bigint + 1000000)::text::xid8`,
	} {
		if _, err := f.pool.Exec(t.Context(), sql); err != nil {
			t.Fatalf("%v:\n%s", err, sql)
		}
	}
	if r, err := outbox.Rebase(t.Context(), f.pool, false); err != nil || !r.Needed {
		t.Fatalf("rebase: %+v (%v)", r, err)
	}
	again := f.await(100 * time.Millisecond)
	if again.EffectID != first.EffectID || again.Attempt != 2 {
		t.Errorf("after the restore came %+v", again)
	}
	f.verifyHistory()
}

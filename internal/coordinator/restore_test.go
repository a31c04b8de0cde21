package coordinator_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/skald-saga/skald/internal/testkit"
)

// P2: in a dump that was restored into another cluster, open sagas refer to
// transactions of the old one. With the documented statements their timeouts
// fire all the same.
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
		documented(t, "relay.md", "after a restore"),
		documented(t, "operations.md", "after a restore"),
	} {
		if _, err := f.pool.Exec(t.Context(), sql); err != nil {
			t.Fatalf("%v:\n%s", err, sql)
		}
	}
	again := f.await(100 * time.Millisecond)
	if again.EffectID != first.EffectID || again.Attempt != 2 {
		t.Errorf("after the restore came %+v", again)
	}
	f.verifyHistory()
}

// documented returns the SQL of a page that begins with a comment.
func documented(t *testing.T, page, comment string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(testkit.Root(t), "docs", page))
	if err != nil {
		t.Fatal(err)
	}
	_, sql, ok := strings.Cut(string(b), "```sql\n-- "+comment)
	sql, _, ended := strings.Cut(sql, "```")
	if !ok || !ended {
		t.Fatalf("docs/%s has no SQL that begins with %q", page, comment)
	}
	return "--" + sql
}

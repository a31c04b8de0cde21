package coordinator

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/skald-saga/skald/internal/saga"
)

// Two transactions that guard the same keys take them in the same order, before
// anything else, whatever becomes of the sagas.
func TestKeysAreGuardedInOneOrder(t *testing.T) {
	t.Parallel()
	var rows []*row
	for i, key := range []string{"c", "a", "b", "a"} {
		rows = append(rows, &row{id: uuid.UUID{byte(i)}, lock: []lockMove{lockWanted, lockReleased, lockReserved, lockWanted}[i],
			state: saga.State{Lock: &saga.Lock{Key: key}}})
	}
	guards := func() []int32 {
		b := &pgx.Batch{}
		queueLocks(b, rows, nil)
		first := b.QueuedQueries[0]
		hashes, ok := first.Arguments[1].([]int32)
		if !ok || !strings.Contains(first.SQL, "pg_advisory_xact_lock") {
			t.Fatalf("the first statement is %s with %v", first.SQL, first.Arguments)
		}
		return hashes
	}
	one := guards()
	slices.Reverse(rows)
	if other := guards(); len(one) != 3 || !slices.Equal(one, other) {
		t.Errorf("the guards are %v, and %v the other way round", one, other)
	}
}

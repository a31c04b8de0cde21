package coordinator

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/skald-saga/skald/internal/saga"
)

func aRow(version int64) *row {
	return &row{id: uuid.New(), version: version, state: saga.State{Status: saga.Running, Input: json.RawMessage(`{}`)}}
}

func TestWhatEndedOrCannotBeWorkedOnIsForgotten(t *testing.T) {
	t.Parallel()
	var m memory
	for name, end := range map[string]func(*row){
		"completed": func(r *row) { r.state.Status = saga.Completed },
		"broken":    func(r *row) { r.broken = ErrUnknownDefinition },
	} {
		r := aRow(1)
		m.put(r)
		if m.get(r.id) == nil {
			t.Fatal("an open saga is not remembered")
		}
		r.version = 2
		end(r)
		m.put(r)
		if m.get(r.id) != nil {
			t.Errorf("%s: is remembered", name)
		}
	}
}

func TestAnOlderVersionDoesNotTakeThePlaceOfANewer(t *testing.T) {
	t.Parallel()
	var m memory
	r := aRow(2)
	m.put(r)
	r.version = 1
	m.put(r)
	if got := m.get(r.id); got.version != 2 || got.read.version != 2 {
		t.Errorf("version %d, guarded by %d, want 2", got.version, got.read.version)
	}
}

// The database keeps microseconds: a due time that is finer would never be
// found as it is remembered, and memory be distrusted for it.
func TestDueTimesAreRememberedAsTheDatabaseKeepsThem(t *testing.T) {
	t.Parallel()
	var m memory
	r := aRow(1)
	r.wakeAt = time.Date(2026, 1, 2, 3, 4, 5, 1_500, time.UTC)
	m.put(r)
	if got := m.get(r.id).read.wakeAt; got.Nanosecond() != 1_000 {
		t.Errorf("guarded by %d ns, want 1000", got.Nanosecond())
	}
}

// P12: memory is bounded by number and by bytes, and what is used stays.
func TestMemoryIsBounded(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ sagas, input int }{
		"many":  {5 * generationSagas, 0},
		"large": {600, 128 << 10},
	} {
		var m memory
		kept := aRow(1)
		input := make(json.RawMessage, c.input)
		most := 0
		for range c.sagas {
			r := aRow(1)
			r.state.Input = input
			m.put(r)
			kept.version++
			m.put(kept)
			most = max(most, len(m.young)+len(m.old))
		}
		if limit := min(2*generationSagas, 2*(generationBytes/max(c.input, 1)+3)); most > limit {
			t.Errorf("%s: %d sagas were remembered, want at most %d", name, most, limit)
		}
		if m.get(kept.id) == nil {
			t.Errorf("%s: the saga that was used all the time is forgotten", name)
		}
	}
}

// With several servers memory is wrong nearly every time: asking it then costs
// more than it saves.
func TestMemoryIsNotAskedWhileItIsWrong(t *testing.T) {
	t.Parallel()
	var m memory
	now := time.Now()
	if !m.trusted(now) {
		t.Fatal("not trusted from the first")
	}
	for _, seconds := range []int{1, 2, 4, 8, 16, 32, 60, 60} {
		m.distrust(now)
		again := now.Add(time.Duration(seconds) * time.Second)
		if m.trusted(again.Add(-1)) {
			t.Errorf("trusted again within %d s", seconds)
		}
		if now = again; !m.trusted(now) {
			t.Errorf("not trusted after %d s", seconds)
		}
	}
	now = now.Add(2 * distrustMost)
	m.distrust(now)
	if !m.trusted(now.Add(distrustFirst)) {
		t.Error("a single mistake long after is not forgiven soon")
	}
}

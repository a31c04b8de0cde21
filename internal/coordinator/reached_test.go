package coordinator

import "testing"

// P11: an outbox that is full must empty by a quarter before sagas start again,
// and a limit of 0 is none.
func TestAFullOutboxMustEmptyByAQuarter(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		n, limit  int64
		was, want bool
	}{
		{99, 100, false, false}, {100, 100, false, true}, {76, 100, true, true}, {74, 100, true, false},
		{1 << 40, 0, false, false}, {1 << 40, 0, true, false}, {1, 1, true, true}, {0, 1, true, false},
	} {
		if got := reached(c.n, c.limit, c.was); got != c.want {
			t.Errorf("%d of %d, full before: %t: got %t", c.n, c.limit, c.was, got)
		}
	}
}

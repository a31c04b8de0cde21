package saga

import (
	"errors"
	"fmt"
	"strings"

	"cel.dev/cel-go/common/types"
)

// Lock is a saga's claim to run alone among those whose definitions give them
// the same key. A saga has at most one, takes it before its first step and
// gives it back when it ends, so no two can wait for each other.
type Lock struct {
	Key   string    `json:"k"`
	State LockState `json:"s"`
}

// LockState is how far a saga has come with its lock.
type LockState string

// The states of a lock.
const (
	LockWaiting  LockState = "waiting"
	LockHeld     LockState = "held"
	LockReleased LockState = "released"
)

// maxLockKey is how many bytes a key may have: it stands in an index.
const maxLockKey = 255

// LockError says that a definition's lock has no key for an input. It does not
// repeat the input.
type LockError struct {
	Expression string
	Err        error // may quote the input
}

func (e *LockError) Error() string { return fmt.Sprintf("lock `%s`: %v", e.Expression, e.Err) }

func (e *LockError) Unwrap() error { return e.Err }

// lockFor makes the lock of a saga that is being started; nil if it needs none.
func (m *machine) lockFor() (*Lock, error) {
	lock := m.def.lock
	if lock == nil {
		return nil, nil //nolint:nilnil // most sagas have no lock
	}
	out, err := m.expressions().eval(lock, nil)
	if err != nil {
		return nil, &LockError{lock.text, err}
	}
	key, ok := out.(types.String)
	switch {
	case !ok:
		return nil, &LockError{lock.text, fmt.Errorf("gave %s, not a text", out.Type().TypeName())}
	case len(key) > maxLockKey:
		return nil, &LockError{lock.text, fmt.Errorf("gave %d bytes, more than %d", len(key), maxLockKey)}
	case strings.ContainsRune(string(key), 0):
		return nil, &LockError{lock.text, errors.New("gave a NUL character")}
	case key == "":
		return nil, nil //nolint:nilnil // the definition's way to say that this one needs none
	}
	return &Lock{Key: string(key), State: LockWaiting}, nil
}

// granted begins a saga that has waited for its lock.
func (m *machine) granted() (ignored string) {
	if m.state.WaitsFor() != ForLock {
		return "it waits for no lock"
	}
	m.record(Entry{Type: LockGranted})
	return ""
}

// lockTo changes how far the saga has come with its lock.
func (s *State) lockTo(state LockState) {
	if s.Lock != nil {
		s.Lock = &Lock{Key: s.Lock.Key, State: state}
	}
}

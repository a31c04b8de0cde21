package coordinator

import (
	"context"
	"time"

	"github.com/google/uuid"
)

// database is where sagas are changed: Postgres (postgres.go) or, in the
// simulation, a model of it. All that decides is above it and the same for
// both; what is merely read for people is not of its business.
type database interface {
	// session reserves a connection, which must be closed.
	session(ctx context.Context) (session, error)
}

// session is one transaction. It begins with the method that is called first,
// and is to end with store or create. These commit: when they return nil, all
// of it has happened and is durable. When they return an error, or the program
// dies in them, all of it has happened or nothing, and nobody can say which.
// After any other error or death nothing has happened.
type session interface {
	// lock reads sagas, and keeps others from changing them until the
	// transaction has ended. It waits for those who do already; what it
	// returns is what they made. A saga that does not exist is left out.
	lock(ctx context.Context, ids uuids) ([]*row, error)

	// lockDue takes the timer rows that are due, at most limit of them, and locks
	// those of their sagas that are still open. What another transaction has
	// taken is passed over. The timer rows go when this transaction is
	// committed: after a crash they are still there.
	lockDue(ctx context.Context, now time.Time, limit int) ([]*row, error)

	// moveLocks gives back the locks of sagas that have ended and puts those that
	// want one, or will, into the order of acceptance. It grants all that are
	// free then, and returns those of rows that want one and now hold it; others
	// that got one have a timer row that is due. It is the last to lock anything.
	moveLocks(ctx context.Context, rows []*row) (held []uuid.UUID, err error)

	// store writes what has become of sagas, and what could not be read. If one
	// of them is not as its guard says, it returns an error that [gaveUp]
	// knows, and nothing has happened. Locks that are only given back are its
	// business too, and that those who get them have a timer row that is due.
	store(ctx context.Context, rows []*row, dead []deadLetter) error

	// claim gives each key to the saga named with it, unless the key belongs to
	// another one already, or to one that is being committed just now: that one
	// takes its place in owners.
	claim(ctx context.Context, owners map[keyOf]owner, now time.Time) error

	// create writes new sagas, with all that belongs to them.
	create(ctx context.Context, starts []*startJob) error

	// close ends the session; what was not committed is taken back.
	close(ctx context.Context, failed bool)
}

package drain

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
)

// Schema makes the table that a drain needs beside the one that it drains: who
// works on what, until when.
const Schema = `CREATE TABLE IF NOT EXISTS relay_drain (
    name        text        PRIMARY KEY,
    owner       text        NOT NULL,
    epoch       bigint      NOT NULL,
    lease_until timestamptz NOT NULL
);`

// lease says that no other drain works on the same table. It runs on the
// database's clock, and holds no connection, so it goes through any pooler. A
// holder that was asleep for longer may publish rows again, which their message
// ids make harmless; it cannot settle any.
type lease struct {
	pool        *pgxpool.Pool
	name, owner string

	epoch   int64
	renewed time.Time // when it was asked for; zero: it is not ours
}

const (
	leaseFor   = 10 * time.Second
	leaseRenew = 2 * time.Second
	leaseRetry = time.Second
)

var (
	errElsewhere = errors.New("another relay drains this table")
	errFenced    = fmt.Errorf("%w: it has taken the lease over", errElsewhere)
)

// valid reports whether the lease lasts long enough to begin something.
func (l *lease) valid(now time.Time) bool {
	return !l.renewed.IsZero() && now.Sub(l.renewed) < leaseFor-time.Second
}

// keep renews the lease if it is time, or takes it if it is free.
func (l *lease) keep(ctx context.Context) (held bool, err error) {
	now := time.Now()
	if l.valid(now) && now.Sub(l.renewed) < leaseRenew {
		return true, nil
	}
	const take = `
		INSERT INTO relay_drain AS l (name, owner, epoch, lease_until) VALUES ($1, $2, 1, clock_timestamp() + make_interval(secs => $3))
		ON CONFLICT (name) DO UPDATE SET owner = excluded.owner, epoch = l.epoch + 1, lease_until = excluded.lease_until
		WHERE l.lease_until <= clock_timestamp() OR l.owner = excluded.owner RETURNING epoch`
	err = l.pool.QueryRow(ctx, take, l.name, l.owner, leaseFor.Seconds()).Scan(&l.epoch)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		l.renewed = time.Time{}
		return false, nil
	case err != nil:
		return false, fmt.Errorf("take the lease: %w", err)
	}
	l.renewed = now
	return true, nil
}

// execer is a pool or a transaction.
type execer interface {
	Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error)
}

// renew renews it if it is still ours, in a commit that is on disk at once.
func (l *lease) renew(ctx context.Context, db execer) error {
	const q = `
		WITH durability AS MATERIALIZED (SELECT set_config('synchronous_commit', 'local', true))
		UPDATE relay_drain SET lease_until = clock_timestamp() + make_interval(secs => $1)
		FROM durability WHERE name = $2 AND owner = $3 AND epoch = $4`
	now := time.Now()
	tag, err := db.Exec(ctx, q, leaseFor.Seconds(), l.name, l.owner, l.epoch)
	switch {
	case err != nil:
		return fmt.Errorf("renew the lease: %w", err)
	case tag.RowsAffected() == 0:
		l.renewed = time.Time{}
		return errFenced
	}
	l.renewed = now
	return nil
}

// release lets another relay begin at once.
func (l *lease) release(ctx context.Context) error {
	if l.renewed.IsZero() {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, settleTimeout)
	defer cancel()
	const q = `UPDATE relay_drain SET lease_until = '-infinity' WHERE name = $1 AND owner = $2 AND epoch = $3`
	if _, err := l.pool.Exec(ctx, q, l.name, l.owner, l.epoch); err != nil {
		return fmt.Errorf("release the lease: %w", err)
	}
	return nil
}

package outbox

import (
	"context"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
)

// DeadLetter is a message that the broker will never take as it is.
type DeadLetter struct {
	Seq     int64     `json:"seq"`
	Key     string    `json:"key"`
	MsgID   uuid.UUID `json:"msg_id"`
	Subject string    `json:"subject"`
	Bytes   int       `json:"bytes"` // of its payload
	Error   string    `json:"error"`
	DeadAt  time.Time `json:"dead_at"`
}

// DeadLetters returns the latest dead letters, the latest first.
func DeadLetters(ctx context.Context, pool *pgxpool.Pool, limit int) ([]DeadLetter, error) {
	rows, err := pool.Query(ctx, `
		SELECT seq, key, msg_id, subject, octet_length(payload), error, dead_at FROM outbox_dead ORDER BY seq DESC LIMIT $1`, limit)
	if err != nil {
		return nil, fmt.Errorf("list dead letters: %w", err)
	}
	letters, err := pgx.CollectRows(rows, pgx.RowToStructByPos[DeadLetter])
	if err != nil {
		return nil, fmt.Errorf("list dead letters: %w", err)
	}
	return letters, nil
}

// which letters: those with these numbers, or all.
const which = `($1::bigint[] IS NULL OR seq = ANY ($1))`

// DB is a pool, or a transaction that this is to be part of.
type DB interface {
	Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error)
}

// Redrive sends dead letters again, as new messages in their old order: those
// with the numbers seqs, or all if it is nil. It returns how many.
func Redrive(ctx context.Context, db DB, seqs []int64) (int64, error) {
	const q = `
		WITH again AS (DELETE FROM outbox_dead WHERE ` + which + ` RETURNING *)
		INSERT INTO outbox (key, subject, headers, payload) SELECT key, subject, headers, payload FROM again ORDER BY seq`
	tag, err := db.Exec(ctx, q, seqs)
	if err != nil {
		return 0, fmt.Errorf("redrive dead letters: %w", err)
	}
	return tag.RowsAffected(), nil
}

// Purge deletes dead letters that have been dead for so long: those with the
// numbers seqs, or all if it is nil. It returns how many.
func Purge(ctx context.Context, db DB, seqs []int64, olderThan time.Duration) (int64, error) {
	const q = `DELETE FROM outbox_dead WHERE ` + which + ` AND dead_at <= clock_timestamp() - make_interval(secs => $2)`
	tag, err := db.Exec(ctx, q, seqs, olderThan.Seconds())
	if err != nil {
		return 0, fmt.Errorf("purge dead letters: %w", err)
	}
	return tag.RowsAffected(), nil
}

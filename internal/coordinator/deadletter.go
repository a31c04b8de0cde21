package coordinator

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/skald-saga/skald/internal/outbox"
	"github.com/skald-saga/skald/internal/wire"
)

// TargetDeadLetter is a dead letter, in the audit log.
const TargetDeadLetter = "dead-letter"

// Where dead letters come from.
const (
	FromReplies = "reply"  // it could not be read, or answers no saga
	FromOutbox  = "outbox" // NATS will never take it
)

// DeadLetterID names a dead letter.
type DeadLetterID struct {
	Source string
	Number int64
}

func (id DeadLetterID) String() string { return id.Source + "-" + strconv.FormatInt(id.Number, 10) }

// ParseDeadLetterID is the inverse of String. It returns [ErrNotFound] for what
// can be no dead letter's name.
func ParseDeadLetterID(text string) (DeadLetterID, error) {
	source, number, _ := strings.Cut(text, "-")
	n, err := strconv.ParseInt(number, 10, 64)
	if id := (DeadLetterID{source, n}); err == nil && n > 0 && id.String() == text && (source == FromReplies || source == FromOutbox) {
		return id, nil
	}
	return DeadLetterID{}, ErrNotFound
}

// DeadLetter is a message that nobody can make sense of, kept for people.
type DeadLetter struct {
	ID      DeadLetterID
	At      time.Time
	Subject string
	Key     string // of a message from the outbox: the id of its saga
	Reason  string
	Bytes   int             // of its body
	Headers json.RawMessage // nil in lists
	Body    []byte          // nil in lists
}

// RedriveError says why a dead letter is still dead.
type RedriveError struct{ Reason string }

func (e *RedriveError) Error() string { return "the letter is still dead: " + e.Reason }

const deadLetters = `
	SELECT at, source, n, subject, key, reason, bytes FROM (
		SELECT at, 'reply' AS source, id AS n, subject, '' AS key, reason, octet_length(payload) AS bytes FROM dead_letter
		UNION ALL
		SELECT dead_at, 'outbox', seq, subject, key, error, octet_length(payload) FROM outbox_dead) d`

// DeadLetters lists dead letters, the latest first, and says whether there are
// more. before is the one that the list goes on behind; its zero value: from the
// latest. source selects where they come from; empty: all.
func (c *Coordinator) DeadLetters(ctx context.Context, source string, before DeadLetter, limit int) ([]DeadLetter, bool, error) {
	done, err := c.reading(ctx)
	if err != nil {
		return nil, false, err
	}
	defer done()
	q := query{text: deadLetters + ` WHERE true`}
	if source != "" {
		q.and(`source = `, source)
	}
	if !before.At.IsZero() {
		q.args = append(q.args, before.At, before.ID.Source, before.ID.Number)
		n := len(q.args)
		q.text += fmt.Sprintf(` AND (at, source, n) < ($%d, $%d, $%d)`, n-2, n-1, n)
	}
	rows, err := c.Pool.Query(ctx, q.text+fmt.Sprintf(` ORDER BY at DESC, source DESC, n DESC LIMIT %d`, limit+1), q.args...)
	if err != nil {
		return nil, false, fmt.Errorf("list dead letters: %w", err)
	}
	letters, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (l DeadLetter, err error) {
		err = row.Scan(&l.At, &l.ID.Source, &l.ID.Number, &l.Subject, &l.Key, &l.Reason, &l.Bytes)
		l.At = l.At.UTC()
		return l, err
	})
	if err != nil {
		return nil, false, fmt.Errorf("list dead letters: %w", err)
	}
	if len(letters) > limit {
		return letters[:limit], true, nil
	}
	return letters, false, nil
}

// DeadLetter returns one with its headers and body, or [ErrNotFound].
func (c *Coordinator) DeadLetter(ctx context.Context, id DeadLetterID) (DeadLetter, error) {
	done, err := c.reading(ctx)
	if err != nil {
		return DeadLetter{}, err
	}
	defer done()
	q := `SELECT at, subject, '', reason, headers, payload FROM dead_letter WHERE id = $1`
	if id.Source == FromOutbox {
		q = `SELECT dead_at, subject, key, error, headers, payload FROM outbox_dead WHERE seq = $1`
	}
	l := DeadLetter{ID: id}
	switch err := c.Pool.QueryRow(ctx, q, id.Number).Scan(&l.At, &l.Subject, &l.Key, &l.Reason, &l.Headers, &l.Body); {
	case errors.Is(err, pgx.ErrNoRows):
		return DeadLetter{}, ErrNotFound
	case err != nil:
		return DeadLetter{}, fmt.Errorf("read dead letter %s: %w", id, err)
	}
	l.At, l.Bytes = l.At.UTC(), len(l.Body)
	return l, nil
}

// letterGone deletes a reply's dead letter with what came of it.
type letterGone int64

func (id letterGone) queue(b *pgx.Batch) {
	b.Queue(`DELETE FROM dead_letter WHERE id = $1`, int64(id))
}

// Redrive tries a dead letter again: a reply is read and given to its saga, a
// message of the outbox is sent anew. The letter goes with that. It returns what
// a saga said of a reply that was stale, [ErrNotFound], or a [*RedriveError].
func (c *Coordinator) Redrive(ctx context.Context, id DeadLetterID, op Operation) (stale string, err error) {
	letter, err := c.DeadLetter(ctx, id)
	if err != nil {
		return "", err
	}
	entry, err := op.audit("redrive", TargetDeadLetter, id.String(), nil, c.now())
	if err != nil {
		return "", err
	}
	if id.Source == FromOutbox {
		return "", c.letGo(ctx, entry, func(tx pgx.Tx) (int64, error) { return outbox.Redrive(ctx, tx, []int64{id.Number}) })
	}
	var headers map[string][]string
	if err := json.Unmarshal(letter.Headers, &headers); err != nil {
		return "", &RedriveError{"its headers were not kept"}
	}
	reply, err := wire.DecodeReply(headers, letter.Body)
	if err != nil {
		return "", &RedriveError{err.Error()}
	}
	return c.giveReply(ctx, reply, entry, letterGone(id.Number))
}

// GiveReply gives a reply to its saga, wherever it came from. It returns why the
// saga ignored it, if it did, or a [*RedriveError].
func (c *Coordinator) GiveReply(ctx context.Context, reply wire.Reply) (stale string, err error) {
	return c.giveReply(ctx, reply)
}

func (c *Coordinator) giveReply(ctx context.Context, reply wire.Reply, with ...beside) (stale string, err error) {
	id, err := uuid.Parse(reply.EffectID.Saga)
	if err != nil {
		return "", &RedriveError{"no such saga"}
	}
	_, err = c.change(ctx, lockByID(ctx, uuids{id}), func(tx *transaction) (err error) {
		r := tx.rows[id]
		if r == nil {
			return &RedriveError{"no such saga"}
		}
		r.beside = append(r.beside, with...)
		stale, err = tx.reply(r, reply)
		return err
	})
	if isDataError(err) {
		err = &RedriveError{"it holds what cannot be stored"}
	}
	if err != nil {
		return "", fmt.Errorf("give reply to saga %s: %w", id, err)
	}
	return stale, nil
}

// DeleteDeadLetter deletes one. It may return [ErrNotFound].
func (c *Coordinator) DeleteDeadLetter(ctx context.Context, id DeadLetterID, op Operation) error {
	entry, err := op.audit("delete", TargetDeadLetter, id.String(), nil, c.now())
	if err != nil {
		return err
	}
	return c.letGo(ctx, entry, func(tx pgx.Tx) (int64, error) {
		if id.Source == FromOutbox {
			return outbox.Purge(ctx, tx, []int64{id.Number}, 0)
		}
		tag, err := tx.Exec(ctx, `DELETE FROM dead_letter WHERE id = $1`, id.Number)
		return tag.RowsAffected(), err
	})
}

// letGo does what ends a dead letter, and notes it for the audit log.
func (c *Coordinator) letGo(ctx context.Context, entry *AuditEntry, do func(pgx.Tx) (int64, error)) error {
	err := pgx.BeginFunc(ctx, c.Pool, func(tx pgx.Tx) error {
		b := &pgx.Batch{}
		entry.queue(b)
		if err := tx.SendBatch(ctx, b).Close(); err != nil {
			return err
		}
		n, err := do(tx) // last: it may write outbox rows
		if err == nil && n == 0 {
			err = ErrNotFound
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("%s dead letter %s: %w", entry.Action, entry.TargetID, err)
	}
	c.Wake()
	return nil
}

// Outbox says how the outbox is. It counts up to a million rows.
func (c *Coordinator) Outbox(ctx context.Context) (outbox.Status, error) {
	done, err := c.reading(ctx)
	if err != nil {
		return outbox.Status{}, err
	}
	defer done()
	return outbox.ReadStatus(ctx, c.Pool)
}

package participant

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/skald-saga/skald/internal/wire"
)

// Schema makes the inbox. One table serves all services of a database.
//
// Remembered are effects that happened and definitive refusals, with their
// replies; started external effects; and actions that must never happen any
// more because their compensation came first. Transient errors are not.
const Schema = `
	CREATE TABLE IF NOT EXISTS skald_inbox (
		service    text        NOT NULL,
		effect_id  text        NOT NULL,
		status     text        NOT NULL CHECK (status IN ('succeeded', 'failed', 'started', 'undoing', 'void')),
		reply      json,                 -- what was answered; repeated to every duplicate
		created_at timestamptz NOT NULL DEFAULT now(),
		PRIMARY KEY (service, effect_id) -- decides every race: the second insert waits for the first transaction
	);
	CREATE INDEX IF NOT EXISTS skald_inbox_created_at ON skald_inbox (created_at);`

// Install makes the inbox if it is not there.
func Install(ctx context.Context, pool *pgxpool.Pool) error {
	err := pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error {
		// IF NOT EXISTS does not keep two installers apart.
		if _, err := tx.Exec(ctx, `SELECT pg_advisory_xact_lock(hashtext('skald_inbox'))`); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, Schema)
		return err
	})
	if err != nil {
		return fmt.Errorf("install inbox: %w", err)
	}
	return nil
}

const (
	succeeded = "succeeded"
	failed    = "failed"
	started   = "started" // an external effect was begun: it may or may not have happened
	undoing   = "undoing" // a started one is being compensated: its success must not be recorded any more
	void      = "void"    // never happened, and never may

	// CodeCompensated refuses an action that comes after its compensation.
	CodeCompensated = "compensated"
	// CodeExpired answers commands that come too late to be executed.
	CodeExpired = "expired"
)

// stored is a reply as the inbox keeps it.
type stored struct {
	Outcome wire.Outcome    `json:"outcome"`
	Body    json.RawMessage `json:"body,omitempty"`
	Failure *wire.Failure   `json:"failure,omitempty"`
}

func (s stored) reply(c wire.Command) wire.Reply {
	return wire.Reply{EffectID: c.EffectID, Attempt: c.Attempt, Outcome: s.Outcome, Body: s.Body, Failure: s.Failure}
}

func encode(r wire.Reply) string {
	b, err := json.Marshal(stored{Outcome: r.Outcome, Body: r.Body, Failure: r.Failure})
	if err != nil { // cannot be: the parts are valid JSON
		return "null"
	}
	return string(b)
}

// inbox is the memory of one service, seen through a transaction.
type inbox struct {
	tx      pgx.Tx
	service string
}

// claim inserts a row and reports whether it was the first. If another
// transaction is inserting the same one, it waits for its end, but not for
// ever: then the error is [errBusy].
func (in inbox) claim(ctx context.Context, effect wire.EffectID, status string) (bool, error) {
	tag, err := in.tx.Exec(ctx, `INSERT INTO skald_inbox (service, effect_id, status) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING`,
		in.service, effect.String(), status)
	if err != nil {
		return false, busyOr(err)
	}
	return tag.RowsAffected() == 1, nil
}

// busyOr turns a lock timeout into [errBusy].
func busyOr(err error) error {
	var pgErr *pgconn.PgError
	if errors.As(err, &pgErr) && pgErr.Code == "55P03" { // lock not available
		return errBusy
	}
	return err
}

var (
	errBusy      = errors.New("another process is at work on this effect")
	errForgotten = errors.New("the effect was deleted from the inbox") // by a purge, or by hand
)

// read locks and returns a row. A purged row is an error: it was there when
// claim met it.
func (in inbox) read(ctx context.Context, effect wire.EffectID) (status string, s stored, err error) {
	var reply []byte
	err = in.tx.QueryRow(ctx, `SELECT status, coalesce(reply, 'null') FROM skald_inbox WHERE service = $1 AND effect_id = $2 FOR UPDATE`,
		in.service, effect.String()).Scan(&status, &reply)
	if err != nil {
		return "", stored{}, fmt.Errorf("read inbox: %w", busyOr(err))
	}
	if err := json.Unmarshal(reply, &s); err != nil {
		return "", stored{}, fmt.Errorf("decode stored reply: %w", err)
	}
	return status, s, nil
}

func (in inbox) set(ctx context.Context, effect wire.EffectID, status, reply string) error {
	tag, err := in.tx.Exec(ctx, `UPDATE skald_inbox SET status = $3, reply = $4 WHERE service = $1 AND effect_id = $2`,
		in.service, effect.String(), status, reply)
	if err != nil {
		return fmt.Errorf("write inbox: %w", busyOr(err))
	}
	if tag.RowsAffected() != 1 {
		return errForgotten
	}
	return nil
}

// brief transactions wait for a row lock as long as a short transaction takes;
// what takes longer is answered as in progress.
var brief = pgx.TxOptions{BeginQuery: `BEGIN; SET LOCAL lock_timeout = '3s'`}

// inTx runs fn with the inbox in one transaction and gives its reply. If fn
// returns an error, everything is rolled back, and the reply is transient.
func (p *Participant) inTx(ctx context.Context, c wire.Command, fn func(inbox) (wire.Reply, error)) wire.Reply {
	var reply wire.Reply
	err := pgx.BeginTxFunc(ctx, p.cfg.Pool, brief, func(tx pgx.Tx) error {
		var err error
		reply, err = fn(inbox{tx: tx, service: p.cfg.Service})
		return err
	})
	if err != nil {
		return notDone(c, err)
	}
	return reply
}

// notDone is the reply to a command whose transaction was rolled back.
func notDone(c wire.Command, err error) wire.Reply {
	switch {
	case errors.Is(err, errBusy):
		return wire.Reply{EffectID: c.EffectID, Attempt: c.Attempt, Outcome: wire.InProgress}
	case errors.Is(err, errExpired):
		return transient(c, CodeExpired, err)
	case errors.Is(err, errPanic):
		return transient(c, "panic", err)
	}
	return transient(c, "transient", err)
}

var errExpired = errors.New("the command came too late")

// mayStart checks an effect that is not in the inbox. It comes after the look
// into the inbox: a late duplicate still gets its stored reply.
func (p *Participant) mayStart(c wire.Command) error {
	now := time.Now()
	if !c.NotAfter.IsZero() && now.After(c.NotAfter) {
		return errExpired
	}
	// Older effects may have been forgotten: doing one again would double it.
	if !c.EffectTime.IsZero() && now.Sub(c.EffectTime) > p.cfg.InboxRetention {
		return errExpired
	}
	return nil
}

// purgeLoop forgets effects that are older than the retention, in batches.
func (p *Participant) purgeLoop(ctx context.Context) {
	for ctx.Err() == nil {
		n, err := p.purge(ctx)
		if err != nil && ctx.Err() == nil {
			p.cfg.Log.WarnContext(ctx, "purging the inbox failed", "err", err)
		}
		if n < purgeBatch {
			pause(ctx, time.Hour)
		}
	}
}

const purgeBatch = 1000

func (p *Participant) purge(ctx context.Context) (int64, error) {
	// One day more than is refused as expired: the clocks need not agree.
	tag, err := p.cfg.Pool.Exec(ctx, `
		DELETE FROM skald_inbox WHERE ctid = ANY (ARRAY(
			SELECT ctid FROM skald_inbox WHERE service = $1 AND created_at < now() - $2::interval - interval '1 day' LIMIT $3))`,
		p.cfg.Service, p.cfg.InboxRetention, purgeBatch)
	return tag.RowsAffected(), err
}

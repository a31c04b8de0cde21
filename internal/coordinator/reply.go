package coordinator

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/skald-saga/skald/internal/saga"
	"github.com/skald-saga/skald/internal/wire"
)

// Delivery is one message from the replies stream.
type Delivery struct {
	Reply   wire.Reply
	Err     error // why it could not be read; Reply is then empty
	Subject string
	Headers map[string][]string
	Body    []byte
}

// HandleReplies applies deliveries, in their order, in one transaction. When it
// returns nil they are all dealt with - applied, recorded as stale, or dead
// letters - and may be acknowledged. After an error none may be: they will be
// delivered again, and what was applied already is then stale.
//
// A delivery that the database cannot store is set apart by bisecting, so that
// it delays no other.
func (c *Coordinator) HandleReplies(ctx context.Context, deliveries []Delivery) error {
	if len(deliveries) == 0 {
		return nil
	}
	err := c.handleReplies(ctx, deliveries, "")
	if !isDataError(err) {
		return err
	}
	if len(deliveries) == 1 {
		return c.handleReplies(ctx, deliveries, "cannot be stored: "+err.Error())
	}
	half := len(deliveries) / 2
	return errors.Join(c.HandleReplies(ctx, deliveries[:half]), c.HandleReplies(ctx, deliveries[half:]))
}

// handleReplies applies the deliveries; with a reason, they are all dead.
func (c *Coordinator) handleReplies(ctx context.Context, deliveries []Delivery, deadReason string) error {
	ids := make(uuids, 0, len(deliveries))
	sagaOf := make([]uuid.UUID, len(deliveries))
	for i, d := range deliveries {
		if d.Err != nil || deadReason != "" {
			continue
		}
		id, err := uuid.Parse(d.Reply.EffectID.Saga)
		if err == nil {
			sagaOf[i] = id
			ids = append(ids, id)
		}
	}
	var applied, stale int
	var dead []deadLetter
	_, err := c.changeKnown(ctx, ids, func(tx *transaction) error {
		applied, stale = 0, 0
		for i, d := range deliveries {
			r := tx.rows[sagaOf[i]]
			switch {
			case deadReason != "":
				tx.bury(d, deadReason)
				continue
			case d.Err != nil:
				tx.bury(d, d.Err.Error())
				continue
			case r == nil:
				tx.bury(d, "no such saga")
				continue
			}
			switch ignored, err := tx.reply(r, d.Reply); {
			case r.guessed && (err != nil || ignored != ""):
				return errGuess
			case err != nil:
				tx.bury(d, err.Error())
			case ignored == "":
				applied++
			default:
				stale++
			}
		}
		dead = tx.dead
		return nil
	})
	if err != nil {
		return fmt.Errorf("handle %d replies: %w", len(deliveries), err)
	}
	c.Metrics.batch.WithLabelValues("replies").Observe(float64(len(deliveries)))
	c.Metrics.replies.WithLabelValues("applied").Add(float64(applied))
	c.Metrics.replies.WithLabelValues("stale").Add(float64(stale))
	c.Metrics.replies.WithLabelValues("dead").Add(float64(len(dead)))
	c.Metrics.deadLetters.Add(float64(len(dead)))
	for _, d := range dead {
		c.Log.WarnContext(ctx, "reply became a dead letter", "subject", printable(d.subject), "reason", d.reason)
	}
	return nil
}

// reply gives a reply to its saga, and notes it if it is stale: ignored says why.
func (tx *transaction) reply(r *row, reply wire.Reply) (ignored string, err error) {
	decision, err := tx.apply(r, event(reply))
	if err != nil || decision.Ignored == "" {
		return "", err
	}
	r.staleSeen = append(r.staleSeen, staleReply{
		At: tx.now, EffectID: reply.EffectID.String(), Attempt: reply.Attempt, Outcome: said(reply), Reason: decision.Ignored,
	})
	return decision.Ignored, nil
}

// said is a reply in a word.
func said(r wire.Reply) string {
	if r.Undeliverable {
		return "undeliverable"
	}
	return string(r.Outcome)
}

func (tx *transaction) bury(d Delivery, reason string) {
	headers, err := json.Marshal(d.Headers)
	if err != nil { // cannot be: strings
		headers = []byte("{}")
	}
	body := d.Body
	if body == nil {
		body = []byte{}
	}
	tx.dead = append(tx.dead, deadLetter{at: tx.now, subject: d.Subject, headers: headers, payload: body, reason: reason})
}

func event(r wire.Reply) saga.Event {
	if r.Undeliverable {
		u := saga.Undeliverable{Step: r.EffectID.Step, Phase: saga.Phase(r.EffectID.Phase), Generation: r.EffectID.Generation, Attempt: r.Attempt}
		if r.Failure != nil {
			u.Reason = r.Failure.Message
		}
		return u
	}
	ev := saga.Reply{
		Step: r.EffectID.Step, Phase: saga.Phase(r.EffectID.Phase), Generation: r.EffectID.Generation, Attempt: r.Attempt,
		Outcome: saga.Outcome(r.Outcome), Result: r.Body, RetryAfter: r.RetryAfter, Extend: r.Extend,
	}
	if r.Failure != nil {
		ev.Failure = &saga.Failure{Code: r.Failure.Code, Message: r.Failure.Message}
	}
	return ev
}

// isDataError reports whether the database refused a value, so that trying the
// same again is no use: SQLSTATE classes 22 (data), 23 (constraint) and 54
// (limits).
func isDataError(err error) bool {
	var pgErr *pgconn.PgError
	if !errors.As(err, &pgErr) || len(pgErr.Code) < 2 {
		return false
	}
	switch pgErr.Code[:2] {
	case "22", "23", "54":
		return true
	}
	return false
}

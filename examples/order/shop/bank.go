package shop

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/skald-saga/skald/participant"
)

// newBank moves money between accounts: debit takes it from one (put-back gives
// it back), credit gives it to another. What was taken and not yet given is in
// bank.entries, so at any moment the balances less the entries are what all
// accounts had at first.
func newBank(cfg Config) (*participant.Participant, error) {
	p, err := cfg.participant("bank", 32)
	if err != nil {
		return nil, err
	}
	p.Step("debit", "put-back", participant.Handlers{Do: debit, Undo: putBack})
	p.Step("credit", "", participant.Handlers{Do: credit})
	return p, nil
}

// money is an amount that goes to or comes from an account.
type money struct {
	Account  string `json:"account"`
	Amount   string `json:"amount"` // decimal; never a JSON number, which many read as binary floating point
	Currency string `json:"currency"`
}

func (m money) validate() error {
	switch {
	case m.Account == "":
		return invalid("account must be given")
	case !decimal.MatchString(m.Amount) || !positive.MatchString(m.Amount):
		return invalid("amount must be a decimal string above 0 with up to 4 places")
	case !currency.MatchString(m.Currency):
		return invalid("currency must be an ISO 4217 code")
	}
	return nil
}

func debit(ctx context.Context, tx pgx.Tx, c participant.Command) (any, error) {
	var payload struct {
		money
		To string `json:"to"`
	}
	if err := decode(c.Payload, &payload); err != nil {
		return nil, err
	}
	if err := payload.validate(); err != nil {
		return nil, err
	}
	if payload.To == payload.Account {
		return nil, participant.Refuse("same_account", "money is moved from one account to another")
	}
	enough, err := lockAccount(ctx, tx, payload.money)
	if err == nil && !enough {
		err = participant.Refuse("insufficient_funds", "the account does not hold that much")
	}
	if err != nil {
		return nil, err
	}
	return map[string]string{"entry": c.EffectID}, move(ctx, tx, c, payload.money, "-")
}

func credit(ctx context.Context, tx pgx.Tx, c participant.Command) (any, error) {
	var m money
	if err := decode(c.Payload, &m); err != nil {
		return nil, err
	}
	if err := m.validate(); err != nil {
		return nil, err
	}
	if _, err := lockAccount(ctx, tx, m); err != nil {
		return nil, err
	}
	return map[string]string{"entry": c.EffectID}, move(ctx, tx, c, m, "")
}

// lockAccount locks an account that is to change, and says whether it holds as
// much.
func lockAccount(ctx context.Context, tx pgx.Tx, m money) (enough bool, err error) {
	var held string
	err = tx.QueryRow(ctx, `SELECT currency, balance >= $2::numeric FROM bank.accounts WHERE id = $1 FOR UPDATE`, m.Account, m.Amount).Scan(&held, &enough)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return false, participant.Refuse("unknown_account", "the bank has no such account")
	case err != nil:
		return false, fmt.Errorf("lock account: %w", err)
	case held != m.Currency:
		return false, participant.Refuse("currency_mismatch", "the account holds another currency")
	}
	return enough, nil
}

// move changes a balance and writes down why; the account is locked.
func move(ctx context.Context, tx pgx.Tx, c participant.Command, m money, sign string) error {
	var b pgx.Batch
	b.Queue(`UPDATE bank.accounts SET balance = balance + $2::numeric WHERE id = $1`, m.Account, sign+m.Amount)
	b.Queue(`INSERT INTO bank.entries (effect_id, transfer_id, account_id, amount) VALUES ($1, $2, $3, $4::numeric)`, c.EffectID, c.Saga, m.Account, sign+m.Amount)
	if err := tx.SendBatch(ctx, &b).Close(); err != nil {
		return fmt.Errorf("move money: %w", err)
	}
	return nil
}

// putBack undoes a debit. One that never happened has no entry.
func putBack(ctx context.Context, tx pgx.Tx, c participant.Command) (any, error) {
	const q = `
		WITH entry AS (DELETE FROM bank.entries WHERE effect_id = $1 AND transfer_id = $2 RETURNING account_id, amount)
		UPDATE bank.accounts a SET balance = a.balance - e.amount FROM entry e WHERE a.id = e.account_id`
	if _, err := tx.Exec(ctx, q, c.Compensates, c.Saga); err != nil {
		return nil, fmt.Errorf("put money back: %w", err)
	}
	return nil, nil //nolint:nilnil // there is nothing to say
}

package shop

import (
	"context"
	"regexp"

	"github.com/skald-saga/skald/participant"
)

// newPayment charges customers and refunds them. Both are done by the gateway,
// outside of any transaction of ours. Many calls may wait for its answers at
// once: they hold no database connection.
func newPayment(cfg Config) (*participant.Participant, error) {
	p, err := cfg.participant("payment", 256)
	if err != nil {
		return nil, err
	}
	g := gateway{pool: cfg.Pool}
	p.External("charge", "refund", participant.External{
		Do: func(ctx context.Context, c participant.Command) (any, error) {
			ch := charge{key: c.EffectID, order: c.Saga}
			if err := decode(c.Payload, &ch); err != nil {
				return nil, err
			}
			if err := ch.validate(); err != nil {
				return nil, err
			}
			id, err := g.charge(ctx, ch)
			if err != nil {
				return nil, err
			}
			return map[string]string{"charge_id": id}, nil
		},
		Undo: func(ctx context.Context, c participant.Command) (any, error) {
			return nil, g.refund(ctx, c.Compensates, c.Saga)
		},
	})
	return p, nil
}

// charge is a request to the gateway.
type charge struct {
	key, order string
	Amount     string `json:"amount"` // decimal; never a JSON number, which many read as binary floating point
	Currency   string `json:"currency"`
	Method     string `json:"payment_method"`
	Customer   string `json:"customer_id"`
}

var (
	decimal  = regexp.MustCompile(`^[0-9]{1,15}(\.[0-9]{1,4})?$`)
	positive = regexp.MustCompile(`[1-9]`)
	currency = regexp.MustCompile(`^[A-Z]{3}$`)
)

func (c charge) validate() error {
	switch {
	case !decimal.MatchString(c.Amount) || !positive.MatchString(c.Amount):
		return invalid("amount must be a decimal string above 0 with up to 4 places")
	case !currency.MatchString(c.Currency):
		return invalid("currency must be an ISO 4217 code")
	}
	return nil
}

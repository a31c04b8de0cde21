package shop

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/skald-saga/skald/participant"
)

// newShipping sends parcels.
func newShipping(cfg Config) (*participant.Participant, error) {
	p, err := cfg.participant("shipping", 32)
	if err != nil {
		return nil, err
	}
	p.Step("dispatch", "", participant.Handlers{Do: dispatch})
	return p, nil
}

func dispatch(ctx context.Context, tx pgx.Tx, c participant.Command) (any, error) {
	var payload struct {
		To    map[string]any `json:"to"`
		Items []item         `json:"items"`
	}
	if err := decode(c.Payload, &payload); err != nil {
		return nil, err
	}
	if len(payload.To) == 0 {
		return nil, invalid("to must say where the goods go")
	}
	if _, err := goodsOf(payload.Items); err != nil {
		return nil, err
	}
	to, err := json.Marshal(payload.To)
	if err != nil {
		return nil, fmt.Errorf("encode recipient: %w", err)
	}
	items, err := json.Marshal(payload.Items)
	if err != nil {
		return nil, fmt.Errorf("encode items: %w", err)
	}
	const q = `
		INSERT INTO shipping.shipments (effect_id, order_id, status, recipient, items) VALUES ($1, $2, 'dispatched', $3, $4)
		RETURNING shipment_id`
	var id string
	if err := tx.QueryRow(ctx, q, c.EffectID, c.Saga, string(to), string(items)).Scan(&id); err != nil {
		return nil, fmt.Errorf("dispatch: %w", err)
	}
	return map[string]string{"shipment_id": id}, nil
}

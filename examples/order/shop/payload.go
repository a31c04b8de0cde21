package shop

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/skald-saga/skald/participant"
)

// invalid refuses a payload: sending it again would not help.
func invalid(format string, args ...any) error {
	return participant.Refuse("invalid_payload", fmt.Sprintf(format, args...))
}

// decode reads a payload into v. Members that v does not have are ignored: a
// definition may send more than we need.
func decode(payload json.RawMessage, v any) error {
	if bytes.Contains(payload, []byte(`\u0000`)) {
		return invalid("text must not contain the character U+0000") // Postgres cannot store it
	}
	if err := json.Unmarshal(payload, v); err != nil {
		return invalid("the payload cannot be read: %v", err)
	}
	return nil
}

// goods are what an order asks for: each sku once, sorted, so that two orders
// take their locks in the same order.
type goods struct {
	skus       []string
	quantities []int64
}

type item struct {
	SKU      string `json:"sku"`
	Quantity int64  `json:"quantity"`
}

const maxQuantity = 1_000_000_000 // of one sku; sums stay far from overflow

func goodsOf(items []item) (goods, error) {
	if len(items) == 0 {
		return goods{}, invalid("items must not be empty")
	}
	var g goods
	items = slices.Clone(items)
	slices.SortFunc(items, func(a, b item) int { return strings.Compare(a.SKU, b.SKU) })
	for _, it := range items {
		if it.SKU == "" || it.Quantity < 1 || it.Quantity > maxQuantity {
			return goods{}, invalid("an item needs a sku and a quantity from 1 to %d", maxQuantity)
		}
		last := len(g.skus) - 1
		if last < 0 || g.skus[last] != it.SKU {
			g.skus, g.quantities = append(g.skus, it.SKU), append(g.quantities, it.Quantity)
			continue
		}
		if g.quantities[last] += it.Quantity; g.quantities[last] > maxQuantity {
			return goods{}, invalid("a quantity must be at most %d", maxQuantity)
		}
	}
	return g, nil
}

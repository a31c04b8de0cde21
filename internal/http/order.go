package http

import (
	"encoding/json"
	"fmt"
	"strconv"

	"github.com/govalues/decimal"

	"github.com/skald-saga/skald/internal/coordinator"
	"github.com/skald-saga/skald/internal/http/api"
)

// order is what an order saga works on: its input, as definitions/order.yaml
// expects it.
type order struct {
	CustomerID    string       `json:"customer_id"`
	Currency      string       `json:"currency"`
	Items         []orderItem  `json:"items"`
	Total         string       `json:"total"`
	PaymentMethod string       `json:"payment_method"`
	ShipTo        *api.Address `json:"ship_to,omitempty"`
}

type orderItem struct {
	SKU       string `json:"sku"`
	Quantity  int32  `json:"quantity"`
	UnitPrice string `json:"unit_price"`
}

// maxTotal is what the database's column holds, exclusive.
var maxTotal = decimal.MustNew(1_000_000_000_000_000, 0)

// newOrder checks what the form of a request does not show and works out the
// total. All amounts get as many decimals as the currency has.
func newOrder(req api.OrderRequest) (order, error) {
	o := order{
		CustomerID: req.CustomerId, Currency: req.Currency, PaymentMethod: req.PaymentMethod, ShipTo: req.ShipTo,
		Items: make([]orderItem, len(req.Items)),
	}
	digits, known := minorUnits(req.Currency)
	if !known {
		return order{}, at(api.ProblemCodeInputInvalid, "#/currency", "must be a currency that is in use (ISO 4217)")
	}
	bad := &failure{code: api.ProblemCodeInputInvalid}
	total := decimal.Zero
	first := map[string]int{}
	for i, item := range req.Items {
		where := "#/items/" + strconv.Itoa(i)
		if j, twice := first[item.Sku]; twice {
			bad.add(where+"/sku", fmt.Sprintf("is already in items/%d: give each sku once, with the whole quantity", j))
		}
		first[item.Sku] = i
		quantity, err := strconv.ParseInt(item.Quantity.String(), 10, 32)
		if err != nil {
			bad.add(where+"/quantity", "must be written as a plain whole number, without fraction or exponent")
			continue
		}
		price, err := decimal.Parse(item.UnitPrice)
		if err != nil || price.Scale() > digits {
			bad.add(where+"/unit_price", fmt.Sprintf("must have at most %d decimals in this currency", digits))
			continue
		}
		o.Items[i] = orderItem{SKU: item.Sku, Quantity: int32(quantity), UnitPrice: price.Pad(digits).String()}
		if total, err = addExact(total, price, quantity, digits); err != nil {
			bad.add("#/items", "add up to too much: the total must be less than 10^15")
			break
		}
	}
	if len(bad.errors) == 0 && !total.IsPos() {
		bad.add("#/items", "add up to nothing: the total must be more than 0")
	}
	if len(bad.errors) > 0 {
		bad.errors = bad.errors[:min(len(bad.errors), maxErrors)]
		return order{}, bad
	}
	o.Total = total.Pad(digits).String()
	return o, nil
}

// addExact returns total + price·quantity, or an error if that is not less
// than maxTotal. Nothing is rounded.
func addExact(total, price decimal.Decimal, quantity int64, digits int) (decimal.Decimal, error) {
	n, err := decimal.New(quantity, 0)
	if err != nil {
		return decimal.Decimal{}, err
	}
	sum, err := price.MulExact(n, digits)
	if err == nil {
		sum, err = total.AddExact(sum, digits)
	}
	if err == nil && sum.Cmp(maxTotal) >= 0 {
		err = fmt.Errorf("total is not less than %s", maxTotal)
	}
	return sum, err
}

func (o order) start() (coordinator.StartRequest, error) {
	input, err := json.Marshal(o)
	if err != nil {
		return coordinator.StartRequest{}, fmt.Errorf("encode order: %w", err)
	}
	return coordinator.StartRequest{
		Definition: orderDefinition, Input: input,
		Order: &coordinator.Order{CustomerID: o.CustomerID, Currency: o.Currency, Total: o.Total},
	}, nil
}

// orderView is an order as clients see it. All of it follows from its saga.
func orderView(s coordinator.Saga) (api.Order, error) {
	var o order
	if err := json.Unmarshal(s.Input, &o); err != nil {
		return api.Order{}, fmt.Errorf("decode input of order %s: %w", s.ID, err)
	}
	id := s.ID.String()
	v := api.Order{
		Id: s.ID, SagaId: s.ID, Status: orderStatus(s.Status), CustomerId: o.CustomerID, Currency: o.Currency,
		Items: make([]api.OrderItem, len(o.Items)), Total: o.Total, PaymentMethod: o.PaymentMethod, ShipTo: o.ShipTo,
		CreatedAt: s.CreatedAt, UpdatedAt: s.UpdatedAt,
		Links: links(ordersPath, s),
	}
	v.Links.Saga, v.Links.History = optional(sagasPath+"/"+id), optional(sagasPath+"/"+id+"/history")
	for i, item := range o.Items {
		v.Items[i] = api.OrderItem{Sku: item.SKU, Quantity: item.Quantity, UnitPrice: item.UnitPrice}
	}
	if v.Status == api.OrderStatusCancelled || v.Status == api.OrderStatusNeedsAttention {
		v.Reason = failureView(s.Error)
	}
	return v, nil
}

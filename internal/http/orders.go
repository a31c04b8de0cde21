package http

import (
	"context"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/skald-saga/skald/internal/coordinator"
	"github.com/skald-saga/skald/internal/http/api"
	"github.com/skald-saga/skald/internal/saga"
)

const (
	ordersPath = "/v1/orders"

	// orderDefinition is the definition that carries orders.
	orderDefinition = "order"

	// anonymous is everybody's name until clients are told apart.
	anonymous = "anonymous"

	// callLimit is how long the database may take. A start that is cut short
	// by it goes on all the same.
	callLimit = 20 * time.Second
)

func (s *server) StartOrder(ctx context.Context, req api.StartOrderRequestObject) (api.StartOrderResponseObject, error) {
	order, err := newOrder(*req.Body)
	if err != nil {
		return nil, err
	}
	start, err := order.start()
	if err != nil {
		return nil, err
	}
	answer, saga, err := s.start(ctx, start, ordersPath, req.Params.IdempotencyKey, req.Params.Prefer)
	if err != nil {
		return nil, err
	}
	answer.body, err = orderView(saga)
	return answer, err
}

func (s *server) GetOrder(ctx context.Context, req api.GetOrderRequestObject) (api.GetOrderResponseObject, error) {
	answer, saga, err := s.get(ctx, req.Id, s.Sagas.GetOrder, req.Params.IfNoneMatch, req.Params.Prefer)
	if err != nil {
		return nil, err
	}
	answer.body, err = orderView(saga)
	return answer, err
}

func (s *server) CancelOrder(ctx context.Context, req api.CancelOrderRequestObject) (api.CancelOrderResponseObject, error) {
	ctx, cancel := context.WithTimeout(ctx, callLimit)
	defer cancel()
	if _, err := s.Sagas.GetOrder(ctx, req.Id); err != nil {
		return nil, err
	}
	answer, saga, err := s.operate(ctx, req.Id, ordersPath, req.Params.IfMatch, cancelReason(req.Body), func(ctx context.Context, op coordinator.Operation) (coordinator.Saga, error) {
		return s.Sagas.Cancel(ctx, req.Id, op)
	})
	if err != nil {
		return nil, err
	}
	answer.body, err = orderView(saga)
	return answer, err
}

func (s *server) ListOrders(ctx context.Context, req api.ListOrdersRequestObject) (api.ListOrdersResponseObject, error) {
	ctx, cancel := context.WithTimeout(ctx, callLimit)
	defer cancel()
	f := coordinator.OrderFilter{}
	filter := url.Values{}
	if req.Params.Status != nil {
		var words []string
		for _, status := range *req.Params.Status {
			f.Statuses = append(f.Statuses, sagaStatuses[status]...)
			words = append(words, string(status))
		}
		filter.Set("status", listed(words))
	}
	if req.Params.CustomerId != nil {
		f.CustomerID = *req.Params.CustomerId
		filter.Set("customer_id", f.CustomerID)
	}
	page, err := newPage(ordersPath, filter, req.Params.Limit, req.Params.Cursor)
	if err != nil {
		return nil, err
	}
	f.Limit, f.Before = page.limit, page.before
	orders, more, err := s.Sagas.ListOrders(ctx, f)
	if err != nil {
		return nil, err
	}
	list := api.ListOrders200JSONResponse{Body: api.OrderList{Items: make([]api.Order, len(orders)), HasMore: more}}
	for i, o := range orders {
		if list.Body.Items[i], err = orderView(o); err != nil {
			return nil, err
		}
	}
	if more {
		list.Body.NextCursor, list.Headers.Link = page.next(orders[len(orders)-1].ID)
	}
	return list, nil
}

// listed is the same for all orders of the same words.
func listed(words []string) string {
	slices.Sort(words)
	return strings.Join(slices.Compact(words), ",")
}

// sagaStatuses are the statuses of the sagas whose orders have a status.
var sagaStatuses = map[api.OrderStatus][]saga.Status{
	api.OrderStatusPending:        {saga.Running, saga.Compensating},
	api.OrderStatusConfirmed:      {saga.Completed},
	api.OrderStatusCancelled:      {saga.Compensated},
	api.OrderStatusNeedsAttention: {saga.Stuck, saga.Abandoned},
}

func orderStatus(of saga.Status) api.OrderStatus {
	for status, sagas := range sagaStatuses {
		if slices.Contains(sagas, of) {
			return status
		}
	}
	return api.OrderStatusPending
}

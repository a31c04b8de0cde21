package bench

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// latencies collects durations. It is safe for concurrent use.
type latencies struct {
	mu  sync.Mutex
	all []time.Duration
}

func (l *latencies) add(d time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.all = append(l.all, d)
}

func (l *latencies) quantile(q float64) time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.all) == 0 {
		return 0
	}
	slices.Sort(l.all)
	return l.all[min(int(q*float64(len(l.all))), len(l.all)-1)]
}

// order places an order and waits for its end.
func (s *system) order(ctx context.Context) error {
	n := s.placed.Add(1)
	body := fmt.Appendf(nil, `{"customer_id": "c-%d", "currency": "EUR", "payment_method": "pm_ok", "items": [{"sku": "bench-%d", "quantity": 1, "unit_price": "12.50"}]}`, n%1000, n%skus)
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, s.HTTP+"/v1/orders", bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Prefer", "wait=30")
	req.Header.Set("Idempotency-Key", fmt.Sprintf("bench-%d", n))
	resp, err := s.client.Do(req)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	answer, err := io.ReadAll(resp.Body)
	switch {
	case err != nil:
		return err
	case resp.StatusCode != http.StatusOK:
		return fmt.Errorf("an order was answered %s: %s", resp.Status, answer)
	case !bytes.Contains(answer, []byte(`"status":"confirmed"`)):
		return fmt.Errorf("an order was not confirmed: %s", answer)
	}
	return nil
}

// atRate places orders at fixed times, however long they take (an open loop:
// a slow system cannot slow its own measurement down). Latency counts from the
// time at which an order was due.
func (s *system) atRate(ctx context.Context, rate int, d time.Duration) (*latencies, int64, error) {
	var l latencies
	var failed atomic.Int64
	var wg sync.WaitGroup
	began := time.Now()
	for i := range int(d.Seconds() * float64(rate)) {
		due := began.Add(time.Duration(i) * time.Second / time.Duration(rate))
		if err := wait(ctx, time.Until(due)); err != nil {
			return nil, 0, err
		}
		wg.Go(func() {
			if s.order(ctx) != nil {
				failed.Add(1)
				return
			}
			l.add(time.Since(due))
		})
	}
	wg.Wait()
	return &l, failed.Load(), nil
}

// closedLoop has each client place one order after the other until ctx ends.
func (s *system) closedLoop(ctx context.Context, clients int) (*latencies, int64) {
	var l latencies
	var failed atomic.Int64
	var wg sync.WaitGroup
	for range clients {
		wg.Go(func() {
			for ctx.Err() == nil {
				began := time.Now()
				switch err := s.order(ctx); {
				case err == nil:
					l.add(time.Since(began))
				case ctx.Err() == nil:
					failed.Add(1)
				}
			}
		})
	}
	wg.Wait()
	return &l, failed.Load()
}

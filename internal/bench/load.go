package bench

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// latencies are durations, not yet in order.
type latencies []time.Duration

func (l latencies) quantile(q float64) time.Duration {
	if len(l) == 0 {
		return 0
	}
	slices.Sort(l)
	return l[min(int(q*float64(len(l))), len(l)-1)]
}

// load is clients, each of which starts one saga after the other and waits for
// its end.
type load struct {
	done     atomic.Int64
	failed   atomic.Int64
	counting atomic.Bool // latencies are kept
	stopping atomic.Bool
	number   *atomic.Int64

	wg      sync.WaitGroup
	clients []*client
	times   []latencies // of each client
	mu      sync.Mutex
	err     error // the first
}

// startLoad connects the clients, in turns to each address.
func startLoad(addrs []string, clients int, r request, number *atomic.Int64) (*load, error) {
	l := &load{number: number, times: make([]latencies, clients)}
	for i := range clients {
		c, err := dial(addrs[i%len(addrs)], r)
		if err != nil {
			l.hangUp()
			return nil, fmt.Errorf("connect a client: %w", err)
		}
		l.clients = append(l.clients, c)
	}
	for i, c := range l.clients {
		l.wg.Go(func() { l.client(i, c) })
	}
	return l, nil
}

func (l *load) client(i int, c *client) {
	for !l.stopping.Load() {
		began := time.Now()
		if err := c.do(l.number.Add(1)); err != nil {
			l.failed.Add(1)
			l.mu.Lock()
			l.err = errors.Join(l.err, err)
			l.mu.Unlock()
			return
		}
		l.done.Add(1)
		if l.counting.Load() {
			l.times[i] = append(l.times[i], time.Since(began))
		}
	}
}

// stop lets every client finish what it has begun. An error of one client is
// the load's: what failed was not measured.
func (l *load) stop() (latencies, error) {
	l.stopping.Store(true)
	cut := time.AfterFunc(40*time.Second, l.hangUp) // longer than the server may make them wait
	l.wg.Wait()
	cut.Stop()
	l.hangUp()
	return slices.Concat(l.times...), l.err
}

func (l *load) hangUp() {
	for _, c := range l.clients {
		_ = c.conn.Close()
	}
}

// idleClients are connections that are used when one is needed.
type idleClients struct {
	addr string
	req  request
	mu   sync.Mutex
	free []*client
}

func (p *idleClients) do(n int64) error {
	p.mu.Lock()
	var c *client
	if last := len(p.free) - 1; last >= 0 {
		c, p.free = p.free[last], p.free[:last]
	}
	p.mu.Unlock()
	if c == nil {
		var err error
		if c, err = dial(p.addr, p.req); err != nil {
			return err
		}
	}
	if err := c.do(n); err != nil {
		return errors.Join(err, c.conn.Close())
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.free = append(p.free, c)
	return nil
}

func (p *idleClients) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range p.free {
		_ = c.conn.Close()
	}
}

// paced calls do at fixed times, however long it takes (an open loop: a slow
// system cannot slow its own measurement down). A latency counts from the time
// at which the call was due.
func paced(ctx context.Context, rate int, d time.Duration, do func() error) (latencies, error) {
	var (
		mu   sync.Mutex
		l    latencies
		errs error
		wg   sync.WaitGroup
	)
	began := time.Now()
	for i := range max(1, int(d.Seconds()*float64(rate))) {
		due := began.Add(time.Duration(i) * time.Second / time.Duration(rate))
		if err := wait(ctx, time.Until(due)); err != nil {
			errs = err
			break
		}
		wg.Go(func() {
			err := do()
			took := time.Since(due)
			mu.Lock()
			defer mu.Unlock()
			l = append(l, took)
			if err != nil && errs == nil {
				errs = err
			}
		})
	}
	wg.Wait()
	return l, errs
}

func wait(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return ctx.Err()
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}

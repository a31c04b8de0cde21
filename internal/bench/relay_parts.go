package bench

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/skald-saga/skald/internal/bus"
)

// inTurns measures two in turns, A B A B, and returns both sums.
func (r *relayRun) inTurns(ctx context.Context, nameA, nameB string, a, b func(context.Context) (drained, error)) (sumA, sumB drained, rounds [][2]float64, err error) {
	for i := range r.cfg.Rounds {
		one, err := a(ctx)
		if err != nil {
			return sumA, sumB, nil, fmt.Errorf("measure %s: %w", nameA, err)
		}
		other, err := b(ctx)
		if err != nil {
			return sumA, sumB, nil, fmt.Errorf("measure %s: %w", nameB, err)
		}
		sumA.add(one)
		sumB.add(other)
		rounds = append(rounds, [2]float64{round(one.perSecond()), round(other.perSecond())})
		r.p.linef(fmt.Sprintf("turn %d of %d", i+1, r.cfg.Rounds), "%s %.0f, %s %.0f messages a second", nameA, one.perSecond(), nameB, other.perSecond())
	}
	return sumA, sumB, rounds, nil
}

// ratio is the median of the turns' ratios: what else the machine does for a
// moment spoils one turn, and not the outcome.
func ratio(rounds [][2]float64) float64 {
	ratios := make([]float64, 0, len(rounds))
	for _, pair := range rounds {
		ratios = append(ratios, quotient(pair[0], pair[1]))
	}
	slices.Sort(ratios)
	n := len(ratios)
	return round((ratios[(n-1)/2] + ratios[n/2]) / 2)
}

// backlog is a turn of so many relays on a box.
func (r *relayRun) backlog(b *box, relays int) func(context.Context) (drained, error) {
	return func(ctx context.Context) (drained, error) { return r.drain(ctx, b, r.cfg.Rows, backlogRows, relays) }
}

func (r *relayRun) throughput(ctx context.Context, b *box) error {
	r.p.headf("Throughput: a backlog of %d messages; and a loop that only publishes as many, in batches of %d, in turns", r.cfg.Rows, benchBatch)
	if err := r.chooseLimit(ctx); err != nil {
		return err
	}
	relay, limit, rounds, err := r.inTurns(ctx, "the relay", "the loop", r.backlog(b, 1),
		func(ctx context.Context) (drained, error) { return r.publish(ctx, r.cfg.Rows) })
	if err != nil {
		return err
	}
	t := &r.report.Throughput
	t.PerSecond, t.Limit, t.Rounds = round(relay.perSecond()), round(limit.perSecond()), rounds
	t.Ratio = ratio(rounds)
	r.p.linef("messages a second; limit; ratio (target 0.5)", "%.0f, %.0f, %.3f", t.PerSecond, t.Limit, t.Ratio)
	return nil
}

// steady has writers write as fast as they can while a relay publishes.
func (r *relayRun) steady(ctx context.Context, b *box) error {
	r.p.headf("Steady: %d writers with %d messages in a transaction, and a relay, for %s", backlogWriters, backlogRows, r.cfg.SteadyFor)
	if err := r.stream.Purge(ctx); err != nil {
		return fmt.Errorf("empty the stream: %w", err)
	}
	relay, err := r.startRelay(ctx, b, func() {})
	if err != nil {
		return err
	}
	began := time.Now()
	var written atomic.Int64
	var writers sync.WaitGroup
	errs := make([]error, backlogWriters)
	for i := range backlogWriters {
		writers.Go(func() {
			for time.Since(began) < r.cfg.SteadyFor && errs[i] == nil {
				errs[i] = b.insert(ctx, backlogRows)
				written.Add(backlogRows)
			}
		})
	}
	writers.Wait()
	took := time.Since(began)
	info, err := r.stream.Info(ctx)
	if err = errors.Join(errors.Join(errs...), err); err != nil {
		return joinStop(err, relay)
	}
	t := &r.report.Throughput
	t.Steady, t.Written = round(float64(info.State.Msgs)/took.Seconds()), round(float64(written.Load())/took.Seconds())
	r.p.linef("relayed, written a second", "%.0f, %.0f", t.Steady, t.Written)
	_, err = r.awaitStored(ctx, int(written.Load())) // the next part begins with nothing left
	return joinStop(err, relay)
}

// delays measures how long a message takes, at a rate at which nothing is
// short, in turns with the same commit and a publication without a relay.
func (r *relayRun) delays(ctx context.Context, b *box) error {
	r.p.headf("Latency at %d messages a second; and of a commit and a publication in a row, in turns", r.cfg.Rate)
	floor, err := r.newBox(ctx, "floor")
	if err != nil {
		return err
	}
	turn := r.cfg.RateFor / time.Duration(r.cfg.Rounds)
	var relayed, alone, unwoken latencies
	for range r.cfg.Rounds {
		for _, measure := range []func() error{
			func() error { return r.relayedAtRate(ctx, b, true, turn, &relayed) },
			func() error { return r.aloneAtRate(ctx, floor, turn, &alone) },
			func() error { return r.relayedAtRate(ctx, b, false, turn/2, &unwoken) },
		} {
			if err := errors.Join(r.settle(ctx), measure()); err != nil {
				return fmt.Errorf("measure at a rate: %w", err)
			}
		}
	}
	l := &r.report.Latency
	l.Latency = latencyOf(relayed, float64(r.cfg.Rate))
	l.FloorP50MS, l.FloorP99MS = ms(alone.quantile(0.5)), ms(alone.quantile(0.99))
	l.RatioP50, l.Ratio = round(quotient(l.P50MS, l.FloorP50MS)), round(quotient(l.P99MS, l.FloorP99MS))
	l.UnwokenP50MS, l.UnwokenP99MS = ms(unwoken.quantile(0.5)), ms(unwoken.quantile(0.99))
	r.p.latency(l.Latency)
	r.p.linef("floor: p50, p99", "%.4g, %.4g ms", l.FloorP50MS, l.FloorP99MS)
	r.p.linef("ratios of p50, p99 (target 3)", "%.2f, %.2f", l.RatioP50, l.Ratio)
	r.p.linef("by writers that wake nobody: p50, p99", "%.4g, %.4g ms", l.UnwokenP50MS, l.UnwokenP99MS)
	return nil
}

const benchInsert = `INSERT INTO outbox (key, msg_id, subject, headers, payload) VALUES ($1, $2, $3, $4, $5)`

// relayedAtRate commits messages one by one and waits for each until a
// consumer has it from the stream.
func (r *relayRun) relayedAtRate(ctx context.Context, b *box, wake bool, d time.Duration, into *latencies) error {
	if err := r.stream.Purge(ctx); err != nil {
		return fmt.Errorf("empty the stream: %w", err)
	}
	relay, err := r.startRelay(ctx, b, func() {})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	waker := bus.NewWaker(r.nc, b.name)
	go func() { _ = waker.Run(ctx) }() // it ends with ctx
	var arriving sync.Map              // message id to channel
	consumer, err := r.stream.OrderedConsumer(ctx, jetstream.OrderedConsumerConfig{})
	if err != nil {
		return joinStop(err, relay)
	}
	consuming, err := consumer.Consume(func(msg jetstream.Msg) {
		if c, ok := arriving.LoadAndDelete(msg.Headers().Get(nats.MsgIdHdr)); ok {
			if arrived, is := c.(chan struct{}); is { // nothing else is stored
				close(arrived)
			}
		}
	})
	if err != nil {
		return joinStop(err, relay)
	}
	defer consuming.Stop()
	one := func() error {
		id := newIDs(1)[0]
		arrived := make(chan struct{})
		arriving.Store(uuidText(id), arrived)
		if _, err := b.pool.Exec(ctx, benchInsert, uuidText(id), id, benchSubject, benchHeaders, []byte(document(benchPayload))); err != nil {
			return fmt.Errorf("write a message: %w", err)
		}
		if wake {
			waker.Wake()
		}
		select {
		case <-arrived:
			return nil
		case <-time.After(30 * time.Second):
			return errors.New("a message did not come")
		}
	}
	if _, err := paced(ctx, r.cfg.Rate, min(d, time.Second), one); err != nil { // connections open, plans are made
		return joinStop(err, relay)
	}
	l, err := paced(ctx, r.cfg.Rate, d, one)
	*into = append(*into, l...)
	return joinStop(err, relay)
}

// aloneAtRate commits the same messages and publishes each itself.
func (r *relayRun) aloneAtRate(ctx context.Context, b *box, d time.Duration, into *latencies) error {
	one := func() error {
		id := newIDs(1)[0]
		body := []byte(document(benchPayload))
		if _, err := b.pool.Exec(ctx, benchInsert, uuidText(id), id, benchSubject, benchHeaders, body); err != nil {
			return fmt.Errorf("write a message: %w", err)
		}
		_, err := r.js.Publish(ctx, benchSubject, body, jetstream.WithMsgID(uuidText(id)))
		return err
	}
	if _, err := paced(ctx, r.cfg.Rate, min(d, time.Second), one); err != nil {
		return err
	}
	l, err := paced(ctx, r.cfg.Rate, d, one)
	*into = append(*into, l...)
	return err
}

func uuidText(id [16]byte) string {
	x := hex.EncodeToString(id[:])
	return x[:8] + "-" + x[8:12] + "-" + x[12:16] + "-" + x[16:20] + "-" + x[20:]
}

// heldSnapshot compares an outbox in whose database somebody holds a snapshot
// open, from before the first turn to after the last, with one where nobody
// does.
func (r *relayRun) heldSnapshot(ctx context.Context, plain, held *box) error {
	r.p.headf("A snapshot held open all the time, and none, in turns")
	tx, err := held.pool.BeginTx(ctx, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly})
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback(context.WithoutCancel(ctx)) }()
	if _, err := tx.Exec(ctx, `SELECT`); err != nil { // the first statement takes the snapshot
		return err
	}
	return r.compare(ctx, &r.report.Held, "with it", "without", r.backlog(held, 1), r.backlog(plain, 1))
}

func (r *relayRun) twoRelays(ctx context.Context, b *box) error {
	r.p.headf("Two relays, and one, in turns")
	return r.compare(ctx, &r.report.Two, "two", "one", r.backlog(b, 2), r.backlog(b, 1))
}

func (r *relayRun) compare(ctx context.Context, c *RelayCompared, nameA, nameB string, a, b func(context.Context) (drained, error)) error {
	with, without, rounds, err := r.inTurns(ctx, nameA, nameB, a, b)
	if err != nil {
		return err
	}
	c.PerSecond, c.Without, c.Rounds = round(with.perSecond()), round(without.perSecond()), rounds
	c.Ratio = ratio(rounds)
	r.p.linef("messages a second, without; ratio (target 0.9)", "%.0f, %.0f, %.3f", c.PerSecond, c.Without, c.Ratio)
	return nil
}

// memory compares the most that a relay needs for a small backlog with what it
// needs for a large one.
func (r *relayRun) memory(ctx context.Context, b *box) error {
	m := &r.report.Memory
	m.SmallRows, m.LargeRows = r.cfg.Small, r.cfg.Large
	r.p.headf("Memory: a backlog of %d messages, and one of %d", m.SmallRows, m.LargeRows)
	small, err := r.drain(ctx, b, m.SmallRows, backlogRows, 1)
	if err != nil {
		return err
	}
	large, err := r.drain(ctx, b, m.LargeRows, 10*backlogRows, 1)
	if err != nil {
		return err
	}
	m.SmallMB, m.LargeMB, m.Ratio = round(small.peak), round(large.peak), round(quotient(large.peak, small.peak))
	r.p.linef("messages a second", "%.0f, %.0f", small.perSecond(), large.perSecond())
	r.p.linef("most memory; ratio (target 0.8 to 1.2)", "%.1f, %.1f MB, %.2f", m.SmallMB, m.LargeMB, m.Ratio)
	return nil
}

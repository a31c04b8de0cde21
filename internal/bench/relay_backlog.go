package bench

import (
	"context"
	"fmt"
	"os/exec"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/sync/errgroup"
)

const (
	benchSubject = "bench.messages"
	benchPayload = 256 // bytes
	benchBatch   = 500 // messages in a batch of the limit loop, as in a page of the relay
	benchHeaders = `{"content-type":"application/json"}`

	backlogWriters = 4
	backlogRows    = 100 // in a transaction

	storePatience = 5 * time.Minute // on a busy machine the first look at millions of messages takes a while
)

// box is a database with an outbox.
type box struct {
	name, url string
	pool      *pgxpool.Pool
}

// newBox makes a database and has the relay install an outbox in it.
func (r *relayRun) newBox(ctx context.Context, name string) (*box, error) {
	url, err := r.database(ctx, name)
	if err != nil {
		return nil, err
	}
	if out, err := exec.CommandContext(ctx, r.relay, "install", "--database-url", url).CombinedOutput(); err != nil {
		return nil, fmt.Errorf("install the outbox: %w: %s", err, out)
	}
	b := &box{name: name, url: url}
	if b.pool, err = pgxpool.New(ctx, url+"&pool_max_conns=16"); err != nil {
		return nil, err
	}
	r.boxes = append(r.boxes, b)
	return b, nil
}

func (b *box) close() { b.pool.Close() }

// write commits n messages of 5,000 keys, so many in a transaction.
func (b *box) write(ctx context.Context, n, each int) error {
	var left atomic.Int64
	left.Store(int64(n))
	g, ctx := errgroup.WithContext(ctx)
	for range backlogWriters {
		g.Go(func() error {
			for {
				rest := left.Add(-int64(each)) + int64(each)
				if rest <= 0 {
					return nil
				}
				if err := b.insert(ctx, min(int(rest), each)); err != nil {
					return err
				}
			}
		})
	}
	return g.Wait()
}

func (b *box) insert(ctx context.Context, n int) error {
	const q = `
		INSERT INTO outbox (key, subject, headers, payload)
		SELECT 'order-' || n % 5000, $2, $3, $4 FROM generate_series(1, $1) n`
	if _, err := b.pool.Exec(ctx, q, n, benchSubject, benchHeaders, []byte(document(benchPayload))); err != nil {
		return fmt.Errorf("write messages: %w", err)
	}
	return nil
}

// drained is a backlog that was worked off.
type drained struct {
	rows int
	took time.Duration
	peak float64 // MB, of the first relay
}

func (d drained) perSecond() float64 { return quotient(float64(d.rows), d.took.Seconds()) }

func (d *drained) add(other drained) {
	d.rows, d.took, d.peak = d.rows+other.rows, d.took+other.took, max(d.peak, other.peak)
}

// drain lets a backlog arise while no relay runs, and times relays that work
// it off: from when the first says that it publishes to when the last message
// is in the stream.
func (r *relayRun) drain(ctx context.Context, b *box, rows, each, relays int) (d drained, err error) {
	if err := r.stream.Purge(ctx); err != nil {
		return d, fmt.Errorf("empty the stream: %w", err)
	}
	if err := b.write(ctx, rows, each); err != nil {
		return d, err
	}
	if err := r.settle(ctx); err != nil {
		return d, err
	}
	began := make(chan time.Time, relays)
	running := make([]*child, relays)
	var g errgroup.Group
	for i := range relays {
		g.Go(func() (err error) {
			running[i], err = r.startRelay(ctx, b, func() { began <- time.Now() })
			return err
		})
	}
	err = g.Wait()
	defer func() {
		for _, c := range running {
			if c != nil {
				err = joinStop(err, c)
			}
		}
	}()
	if err != nil {
		return d, err
	}
	first := <-began
	last, err := r.awaitStored(ctx, rows)
	return drained{rows: rows, took: last.Sub(first), peak: peak(running[0].cmd.Process.Pid)}, err
}

func joinStop(err error, c *child) error {
	if stopErr := c.stop(); err == nil {
		return stopErr
	}
	return err
}

// startRelay starts a relay on a box; publishing is called when it publishes.
func (r *relayRun) startRelay(ctx context.Context, b *box, publishing func()) (*child, error) {
	var line struct{}
	says := logged("publishing the outbox", &line)
	ready := func(said []byte) bool {
		ok := says(said)
		if ok {
			publishing()
		}
		return ok
	}
	args := []string{"run", "--database-url", b.url, "--nats-url", r.natsURL, "--prefix", b.name, "--admin-addr", ""}
	return spawn(ctx, roleRelay, nil, ready, r.relay, args...)
}

// awaitStored waits until the stream holds so many messages, and returns when
// it took the last.
func (r *relayRun) awaitStored(ctx context.Context, n int) (time.Time, error) {
	stored := uint64(0)
	for late := time.Now().Add(storePatience); ; {
		info, err := r.stream.Info(ctx)
		if err != nil {
			return time.Time{}, fmt.Errorf("look at the stream: %w", err)
		}
		now := info.State.Msgs
		switch {
		case now >= uint64(n):
			return info.State.LastTime, nil
		case now > stored:
			stored, late = now, time.Now().Add(storePatience)
		case time.Now().After(late):
			return time.Time{}, fmt.Errorf("%d of %d messages came, and no more for %s", now, n, storePatience)
		}
		if err := wait(ctx, 10*time.Millisecond); err != nil {
			return time.Time{}, err
		}
	}
}

// publish is the limit: a loop that publishes such messages in such batches,
// each when the one before is acknowledged, and does nothing else.
func (r *relayRun) publish(ctx context.Context, rows int) (d drained, err error) {
	if err := r.stream.Purge(ctx); err != nil {
		return d, fmt.Errorf("empty the stream: %w", err)
	}
	if err := r.settle(ctx); err != nil {
		return d, err
	}
	began := time.Now()
	for left := rows; left > 0; left -= benchBatch {
		if err := r.limit(ctx, benchMessages(min(left, benchBatch))); err != nil {
			return d, fmt.Errorf("publish: %w", err)
		}
	}
	last, err := r.awaitStored(ctx, rows)
	return drained{rows: rows, took: last.Sub(began)}, err
}

// chooseLimit tries both ways in which a batch can be published, and makes the
// faster one the limit.
func (r *relayRun) chooseLimit(ctx context.Context) error {
	fastest := time.Duration(0)
	for _, way := range []struct {
		name    string
		publish func(context.Context, []*nats.Msg) error
	}{{"all under way at once", r.publishTogether}, {"one atomic batch", r.publishAtomically}} {
		r.limit = way.publish
		if _, err := r.publish(ctx, 2*benchBatch); err != nil { // warm
			return err
		}
		d, err := r.publish(ctx, 20*benchBatch)
		if err != nil {
			return err
		}
		r.p.linef("a batch as "+way.name, "%.0f messages a second", d.perSecond())
		if fastest == 0 || d.took < fastest {
			fastest, r.report.Settings.LimitPublishes = d.took, way.name
		}
	}
	if r.report.Settings.LimitPublishes != "one atomic batch" {
		r.limit = r.publishTogether
	}
	return nil
}

func benchMessages(n int) []*nats.Msg {
	body, at := []byte(document(benchPayload)), time.Now().UTC().Format(time.RFC3339Nano)
	messages := make([]*nats.Msg, n)
	for i, id := range newIDs(n) {
		id := uuidText(id)
		messages[i] = &nats.Msg{Subject: benchSubject, Data: body, Header: nats.Header{
			nats.MsgIdHdr: {id}, "ce-id": {id}, "ce-specversion": {"1.0"}, "ce-time": {at}, "content-type": {"application/json"},
		}}
	}
	return messages
}

// publishTogether publishes messages and waits for all acknowledgements.
func (r *relayRun) publishTogether(ctx context.Context, messages []*nats.Msg) error {
	futures := make([]jetstream.PubAckFuture, len(messages))
	for i, msg := range messages {
		var err error
		if futures[i], err = r.js.PublishMsgAsync(msg); err != nil {
			return err
		}
	}
	for _, f := range futures {
		select {
		case <-f.Ok():
		case err := <-f.Err():
			return err
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// publishAtomically publishes messages as one batch (ADR-50).
func (r *relayRun) publishAtomically(ctx context.Context, messages []*nats.Msg) error {
	batch := uuidText(newIDs(1)[0])
	for i, msg := range messages {
		msg.Header["Nats-Batch-Id"], msg.Header["Nats-Batch-Sequence"] = []string{batch}, []string{strconv.Itoa(i + 1)}
		if i < len(messages)-1 {
			if err := r.nc.PublishMsg(msg); err != nil {
				return err
			}
			continue
		}
		msg.Header["Nats-Batch-Commit"] = []string{"1"}
		if _, err := r.js.PublishMsg(ctx, msg); err != nil {
			return err
		}
	}
	return nil
}

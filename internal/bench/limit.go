package bench

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/sync/errgroup"
)

// shape is how much work a saga is, whoever does it.
type shape struct {
	commands int // of the saga: each is published, consumed and answered
}

// The shapes of the order that is placed, and of one whose third step fails:
// two steps are compensated.
var (
	succeeding = shape{commands: 3}
	failing    = shape{commands: 5}
)

// limit is the limit program: it does the least that the same sagas need of
// Postgres and of JetStream to be as durable, and nothing else. What a saga
// needs is a row for it, a row of history for its start and for each reply, a
// row in the outbox for each command, all committed before they are spoken of;
// and each command and each reply published, acknowledged, consumed and
// acknowledged. Sagas are done together, 256 in a transaction, by two writers,
// and the messages keep pace with the rows: a saga counts when both are done.
type limit struct {
	pool *pgxpool.Pool
	nc   *nats.Conn
	js   jetstream.JetStream

	streams             []jetstream.Stream
	published, consumed atomic.Int64
}

const (
	limitBatch    = 256
	limitWriters  = 2
	limitSenders  = 3 // batches whose messages are under way at once
	limitDatabase = "bench_limit"

	// Bytes of a row's documents: about what Skald's have for an order.
	stateBytes, inputBytes, entriesBytes, headersBytes, payloadBytes = 250, 130, 130, 250, 80
	messageBytes                                                     = headersBytes + payloadBytes
)

func (m *machine) newLimit(ctx context.Context) (*limit, error) {
	url, err := m.database(ctx, limitDatabase)
	if err != nil {
		return nil, err
	}
	l := &limit{}
	if l.pool, err = pgxpool.New(ctx, url+"&pool_max_conns=16"); err != nil {
		return nil, err
	}
	const tables = `
		CREATE TABLE saga (id uuid PRIMARY KEY, version bigint NOT NULL, status text NOT NULL, state json NOT NULL, input json NOT NULL,
			updated_at timestamptz NOT NULL) WITH (fillfactor = 80);
		CREATE TABLE history (saga_id uuid, version bigint, at timestamptz NOT NULL, entries json NOT NULL, PRIMARY KEY (saga_id, version));
		CREATE TABLE outbox (seq bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, key uuid NOT NULL, subject text NOT NULL,
			headers json NOT NULL, payload bytea NOT NULL)`
	if _, err := l.pool.Exec(ctx, tables); err != nil {
		l.close()
		return nil, fmt.Errorf("make the limit program's tables: %w", err)
	}
	if err := l.connect(ctx, m.natsURL); err != nil {
		l.close()
		return nil, err
	}
	return l, nil
}

// connect makes two streams as Skald has them, and consumes what is in them.
func (l *limit) connect(ctx context.Context, url string) (err error) {
	if l.nc, err = connect(url); err != nil {
		return err
	}
	if l.js, err = jetstream.New(l.nc, jetstream.WithPublishAsyncMaxPending(4*limitBatch)); err != nil {
		return err
	}
	for _, name := range []string{"commands", "replies"} {
		stream, err := l.js.CreateStream(ctx, jetstream.StreamConfig{
			Name: "LIMIT_" + name, Subjects: []string{"limit." + name}, Storage: jetstream.FileStorage,
			Retention: jetstream.WorkQueuePolicy, Discard: jetstream.DiscardNew,
		})
		if err != nil {
			return fmt.Errorf("make the limit program's streams: %w", err)
		}
		l.streams = append(l.streams, stream)
	}
	return nil
}

func (l *limit) close() {
	if l.nc != nil {
		l.nc.Close()
	}
	l.pool.Close()
}

// consume takes and acknowledges messages until stop is called.
func (l *limit) consume(ctx context.Context) (stop func(), err error) {
	var stops []func()
	stop = func() {
		for _, s := range stops {
			s()
		}
	}
	for _, stream := range l.streams {
		c, err := stream.CreateOrUpdateConsumer(ctx, jetstream.ConsumerConfig{
			Durable: "limit", AckPolicy: jetstream.AckExplicitPolicy, MaxAckPending: 16384,
		})
		if err != nil {
			stop()
			return nil, err
		}
		consuming, err := c.Consume(func(msg jetstream.Msg) {
			_ = msg.Ack() // it comes again, and is counted twice, after half a minute
			l.consumed.Add(1)
		}, jetstream.PullMaxMessages(4*limitBatch))
		if err != nil {
			stop()
			return nil, err
		}
		stops = append(stops, consuming.Stop)
	}
	return stop, nil
}

// run does sagas until stop is closed, and counts those that are done.
func (l *limit) run(ctx context.Context, sh shape, batch int, stop <-chan struct{}, done *atomic.Int64) error {
	stopConsuming, err := l.consume(ctx)
	if err != nil {
		return err
	}
	defer stopConsuming()
	g, ctx := errgroup.WithContext(ctx)
	written := make(chan int, 2) // batches whose messages are due: as many may be ahead
	var writers sync.WaitGroup
	for range limitWriters {
		writers.Add(1)
		g.Go(func() error {
			defer writers.Done()
			for {
				select {
				case <-stop:
					return nil
				default:
				}
				if err := l.write(ctx, sh, newIDs(batch)); err != nil {
					return err
				}
				select {
				case written <- batch:
				case <-ctx.Done():
					return ctx.Err()
				}
			}
		})
	}
	g.Go(func() error {
		writers.Wait()
		close(written)
		return nil
	})
	for range limitSenders {
		g.Go(func() error { return l.messages(ctx, sh, written, done) })
	}
	return g.Wait()
}

// write is the life of a batch of sagas, in as many transactions as it has
// events.
func (l *limit) write(ctx context.Context, sh shape, ids [][16]byte) error {
	conn, err := l.pool.Acquire(ctx)
	if err != nil {
		return err
	}
	defer conn.Release()
	for version := range sh.commands + 1 {
		if err := l.transition(ctx, conn, sh, ids, version+1); err != nil {
			return err
		}
	}
	return nil
}

// transition is one transaction in one round trip: the first makes the sagas,
// the others go one event on; all but the last issue a command.
func (l *limit) transition(ctx context.Context, conn *pgxpool.Conn, sh shape, ids [][16]byte, version int) error {
	const (
		insert = `INSERT INTO saga SELECT u.id, 1, 'running', u.state, u.input, now() FROM unnest($1::uuid[], $2::json[], $3::json[]) u (id, state, input)`
		update = `UPDATE saga s SET version = $3, status = $4, state = u.state, updated_at = now()
			FROM unnest($1::uuid[], $2::json[]) u (id, state) WHERE s.id = u.id`
		history = `INSERT INTO history SELECT u.id, $3, now(), u.entries FROM unnest($1::uuid[], $2::json[]) u (id, entries)`
		outbox  = `INSERT INTO outbox (key, subject, headers, payload) SELECT u.id, 'limit.commands', u.headers, u.payload
			FROM unnest($1::uuid[], $2::json[], $3::bytea[]) u (id, headers, payload)`
	)
	n := len(ids)
	b := &pgx.Batch{}
	b.Queue(`BEGIN`)
	if version == 1 {
		b.Queue(insert, ids, fill(n, document(stateBytes)), fill(n, document(inputBytes)))
	} else {
		status := "running"
		if version == sh.commands+1 {
			status = "completed"
		}
		b.Queue(update, ids, fill(n, document(stateBytes)), int64(version), status)
	}
	b.Queue(history, ids, fill(n, document(entriesBytes)), int64(version))
	if version <= sh.commands {
		b.Queue(outbox, ids, fill(n, document(headersBytes)), fill(n, []byte(document(payloadBytes))))
	}
	b.Queue(`COMMIT`)
	if err := conn.SendBatch(ctx, b).Close(); err != nil {
		return fmt.Errorf("write the limit program's rows: %w", err)
	}
	return nil
}

// messages publishes and consumes for the batches that are written.
func (l *limit) messages(ctx context.Context, sh shape, written <-chan int, done *atomic.Int64) error {
	body := []byte(document(messageBytes))
	for batch := range written {
		futures := make([]jetstream.PubAckFuture, 0, 2*sh.commands*batch)
		for range sh.commands * batch {
			for _, subject := range []string{"limit.commands", "limit.replies"} {
				f, err := l.js.PublishAsync(subject, body, jetstream.WithStallWait(time.Minute))
				if err != nil {
					return fmt.Errorf("publish: %w", err)
				}
				futures = append(futures, f)
			}
		}
		for _, f := range futures {
			select {
			case <-f.Ok():
			case err := <-f.Err():
				return fmt.Errorf("publish: %w", err)
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		if err := l.await(ctx, l.published.Add(int64(len(futures)))); err != nil {
			return err
		}
		done.Add(int64(batch))
	}
	return nil
}

// await waits until so many messages are consumed.
func (l *limit) await(ctx context.Context, n int64) error {
	for late := time.Now().Add(time.Minute); l.consumed.Load() < n; {
		if time.Now().After(late) {
			return errors.New("the limit program's messages do not come")
		}
		if err := wait(ctx, time.Millisecond); err != nil {
			return err
		}
	}
	return nil
}

// limitSlice runs the limit program for a while.
func (m *machine) limitSlice(ctx context.Context, l *limit, sh shape, batch int, warm, window time.Duration) (s slice, err error) {
	if err := m.settle(ctx); err != nil {
		return s, err
	}
	var done atomic.Int64
	stop := make(chan struct{})
	ran := make(chan error, 1)
	go func() { ran <- l.run(ctx, sh, batch, stop, &done) }()
	defer func() {
		close(stop)
		err = errors.Join(err, <-ran)
	}()
	return m.window(ctx, &done, warm, window, nil, func() (meter, error) {
		return m.read(ctx, limitDatabase, map[int]string{m.queue.cmd.Process.Pid: roleNATS})
	})
}

// one does a saga alone, in a row: its commits, and after each but the last the
// publication of a command and of its reply.
func (l *limit) one(ctx context.Context) error {
	conn, err := l.pool.Acquire(ctx)
	if err != nil {
		return err
	}
	defer conn.Release()
	ids, body := newIDs(1), []byte(document(messageBytes))
	for version := range succeeding.commands + 1 {
		if err := l.transition(ctx, conn, succeeding, ids, version+1); err != nil {
			return err
		}
		if version == succeeding.commands {
			break
		}
		for _, subject := range []string{"limit.commands", "limit.replies"} {
			if _, err := l.js.Publish(ctx, subject, body); err != nil {
				return fmt.Errorf("publish: %w", err)
			}
		}
	}
	return nil
}

// purge forgets what one has published and nobody consumed.
func (l *limit) purge(ctx context.Context) error {
	for _, s := range l.streams {
		if err := s.Purge(ctx); err != nil {
			return err
		}
	}
	return nil
}

// newIDs makes UUIDs of version 7, in order.
func newIDs(n int) [][16]byte {
	ids := make([][16]byte, n)
	now := uint64(time.Now().UnixMilli()) << 16
	for i := range ids {
		_, _ = rand.Read(ids[i][6:])
		binary.BigEndian.PutUint64(ids[i][:8], now|uint64(0x7000|i&0xfff))
		ids[i][8] = ids[i][8]&0x3f | 0x80
	}
	return ids
}

// document is JSON of n bytes.
func document(n int) string { return `{"data":"` + strings.Repeat("x", n-11) + `"}` }

func fill[T any](n int, v T) []T {
	all := make([]T, n)
	for i := range all {
		all[i] = v
	}
	return all
}

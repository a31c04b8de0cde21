package drain

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/skald-saga/skald/internal/bus"
	"github.com/skald-saga/skald/internal/outbox"
	"github.com/skald-saga/skald/internal/testkit"
)

func TestMain(m *testing.M) { testkit.Main(m) }

// shape is an outbox as services have made it themselves.
type shape struct {
	table, mapping string
	insert         string // of $1, the number of a row; $2, its key
	left           string // counts the rows that are pending
}

var shapes = map[string]shape{
	"uuid and time, deleted": { // the shape of Debezium's outbox router
		table: `CREATE TABLE outboxevent (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), aggregatetype varchar(255) NOT NULL, aggregateid varchar(255) NOT NULL,
			type varchar(255) NOT NULL, payload jsonb, created_at timestamptz NOT NULL DEFAULT clock_timestamp());
			CREATE INDEX ON outboxevent (created_at)`,
		mapping: `
table: outboxevent
id: id
order: created_at
key: aggregateid
subject: s.{aggregatetype}.{type}
payload: payload
header: {content-type: application/json, ce-type: "shop.{type}"}
time: created_at
settle: {delete: true}
`,
		insert: `INSERT INTO outboxevent (aggregatetype, aggregateid, type, payload) VALUES ('order', $2::text, 'Placed', jsonb_build_object('n', $1::int))`,
		left:   `SELECT count(*) FROM outboxevent`,
	},
	"number and mark": {
		table: `CREATE SCHEMA billing; CREATE TABLE billing."Messages" (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, topic text NOT NULL, partition_key text,
			headers json, body bytea NOT NULL, published_at timestamptz);
			CREATE INDEX ON billing."Messages" (id) WHERE published_at IS NULL`,
		mapping: `
table: billing.Messages
id: id
key: partition_key
subject: "{topic}"
payload: body
headers: headers
pending: published_at IS NULL
settle: {set: {published_at: clock_timestamp()}}
`,
		insert: `INSERT INTO billing."Messages" (topic, partition_key, headers, body) VALUES ('s.a', $2, '{"x-own": "1"}', convert_to(format('{"n": %s}', $1::int), 'UTF8'))`,
		left:   `SELECT count(*) FROM billing."Messages" WHERE published_at IS NULL`,
	},
	"state in words": {
		table: `CREATE TABLE events (event_no int PRIMARY KEY, state text NOT NULL DEFAULT 'new', error text, owner text, data text, at timestamp NOT NULL DEFAULT localtimestamp);
			CREATE INDEX ON events (event_no)`,
		mapping: `
table: public.events
id: event_no
key: owner
subject: s.events
payload: data
time: at
pending: state = 'new' -- as the service has it
settle: {set: {state: "'sent'"}}
dead: {set: {state: "'dead'", error: "left({error}, 100)"}}
lease: events
`,
		insert: `INSERT INTO events (event_no, owner, data) VALUES ($1::int, $2, format('{"n": %s}', $1::int))`,
		left:   `SELECT count(*) FROM events WHERE state = 'new'`,
	},
}

// table makes one and returns the mapping of it.
func (s shape) make(t testing.TB, pool *pgxpool.Pool) *Mapping {
	t.Helper()
	execute(t, pool, Schema)
	execute(t, pool, s.table)
	return parse(t, s.mapping)
}

func parse(t testing.TB, text string) *Mapping {
	t.Helper()
	m, err := Parse([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func execute(t testing.TB, pool *pgxpool.Pool, sql string, args ...any) {
	t.Helper()
	if _, err := pool.Exec(t.Context(), sql, args...); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
}

func count(t testing.TB, pool *pgxpool.Pool, sql string, args ...any) (n int) {
	t.Helper()
	if err := pool.QueryRow(t.Context(), sql, args...).Scan(&n); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	return n
}

// broker is JetStream, which a test may disturb.
type broker struct {
	*bus.Publisher
	js jetstream.JetStream

	mu     sync.Mutex
	offers [][]outbox.Row
	before func([]outbox.Row)
	after  func()
}

func newBroker(t testing.TB) *broker {
	t.Helper()
	nc, err := nats.Connect(testkit.NATS(t).URL())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	b := &broker{}
	if b.Publisher, err = bus.NewPublisher(nc); err != nil {
		t.Fatal(err)
	}
	if b.js, err = jetstream.New(nc); err != nil {
		t.Fatal(err)
	}
	if _, err := b.js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "S", Subjects: []string{"s.>"}}); err != nil {
		t.Fatal(err)
	}
	return b
}

func (b *broker) Publish(ctx context.Context, rows []outbox.Row) []outbox.Result {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.offers = append(b.offers, rows)
	if b.before != nil {
		b.before(rows)
	}
	results := b.Publisher.Publish(ctx, rows)
	if b.after != nil {
		b.after()
	}
	return results
}

func (b *broker) offered() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	n := 0
	for _, rows := range b.offers {
		n += len(rows)
	}
	return n
}

// numbers are what the stream holds, in its order.
func (b *broker) numbers(t testing.TB) (numbers []int, messages []*jetstream.RawStreamMsg) {
	t.Helper()
	s, err := b.js.Stream(t.Context(), "S")
	if err != nil {
		t.Fatal(err)
	}
	info, err := s.Info(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for seq := uint64(1); seq <= info.State.LastSeq; seq++ {
		m, err := s.GetMsg(t.Context(), seq)
		if err != nil {
			t.Fatal(err)
		}
		var body struct{ N int }
		if err := json.Unmarshal(m.Data, &body); err != nil {
			t.Fatalf("%q: %v", m.Data, err)
		}
		numbers, messages = append(numbers, body.N), append(messages, m)
	}
	return numbers, messages
}

func (b *broker) await(t testing.TB, want ...int) {
	t.Helper()
	slices.Sort(want)
	testkit.Eventually(t, "the messages", 20*time.Second, func() (bool, string) {
		got, _ := b.numbers(t)
		slices.Sort(got)
		return slices.Equal(got, want), fmt.Sprintf("%v, want %v", got, want)
	})
}

// stepper takes one pass at a time.
func stepper(t testing.TB, pool *pgxpool.Pool, m *Mapping, b outbox.Publisher) *run {
	t.Helper()
	d := &Drain{Pool: pool, Mapping: m, Publisher: b, Log: testkit.Log(t), Metrics: NewMetrics(nil)}
	return d.run()
}

func (r *run) step(t testing.TB) int {
	t.Helper()
	n, err := r.pass(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// start runs a drain until stop is called.
func start(t testing.TB, pool *pgxpool.Pool, m *Mapping, b outbox.Publisher) (stop func()) {
	t.Helper()
	d := &Drain{Pool: pool, Mapping: m, Publisher: b, Log: testkit.Log(t)}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- d.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(stop)
	return stop
}

package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os/exec"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/skald-saga/skald/internal/embedded"
	"github.com/skald-saga/skald/internal/testkit"
	"github.com/skald-saga/skald/internal/wire"
	"github.com/skald-saga/skald/participant"
)

const (
	stopSignal     = syscall.SIGSTOP
	continueSignal = syscall.SIGCONT
)

func (p *process) signal(s syscall.Signal) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cmd != nil {
		_ = p.cmd.Process.Signal(s)
	}
}

// world is a service with an outbox, relays as programs of their own behind
// links that can be cut, a stream, and a participant on the SDK.
type world struct {
	t          *testing.T
	forgetful  bool // the broker may forget; else the ring turns fast
	postgres   *embedded.Postgres
	nats       *embedded.NATS
	nc         *nats.Conn
	js         jetstream.JetStream
	toNATS     *testkit.Link
	toPostgres *testkit.Link
	pool       *pgxpool.Pool // of the service
	elsewhere  *pgxpool.Pool // another database of the same cluster
	effects    *pgxpool.Pool // of the participant, on another cluster: its commits flush nothing of the service's
	relays     []*process
	readers    []*wrongReader
	writing    context.CancelFunc
	writers    sync.WaitGroup
	gate       sync.RWMutex // locked: the writers rest
	ending     []func()     // of what is open

	stopped  atomic.Bool // no more samples
	watchers sync.WaitGroup

	mu     sync.Mutex
	era    int
	wipes  []time.Time
	stored []stored
	lanes  []laneSample
	passed map[string]time.Time
	gone   map[string]time.Time
}

// schema of the service: what its messages are about, and a log of what it
// committed, written with them.
const serviceSchema = `
	CREATE TABLE aggregate (key text PRIMARY KEY, version bigint NOT NULL);
	CREATE TABLE commit_log (msg_id uuid PRIMARY KEY, key text NOT NULL, version bigint NOT NULL, lane smallint NOT NULL, xid xid8 NOT NULL,
		effect text NOT NULL, poison boolean NOT NULL, at timestamptz NOT NULL);
	INSERT INTO aggregate SELECT key, 0 FROM unnest(ARRAY['a', 'b', 'c', 'd', 'e', 'f', 'lazy', 'long', 'orphan', 'resent', 'shown']) key`

const historyRetain = time.Second // where the ring turns fast

func startWorld(t *testing.T, forgetful bool) *world {
	t.Helper()
	w := &world{t: t, forgetful: forgetful, passed: map[string]time.Time{}, gone: map[string]time.Time{}}
	var err error
	if w.postgres, err = embedded.StartPostgres(t.Context(), embedded.PostgresConfig{Durable: true, Params: map[string]string{
		"max_prepared_transactions": "20", "max_connections": "100", "wal_writer_delay": "10s", "wal_writer_flush_after": "0",
	}}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := w.postgres.Stop(); err != nil {
			t.Error(err)
		}
	})
	for _, name := range []string{"service", "elsewhere"} {
		if err := embedded.CreateDatabase(t.Context(), w.postgres.URL("postgres"), name); err != nil {
			t.Fatal(err)
		}
	}
	w.mustRun(testkit.Build(t, "cmd/relay"), "install", "--database-url", w.postgres.URL("service"))
	w.pool, w.elsewhere = testkit.Pool(t, w.postgres.URL("service")+"&pool_max_conns=20"), testkit.Pool(t, w.postgres.URL("elsewhere"))
	w.effects = testkit.Pool(t, testkit.EmptyDatabaseURL(t)+"&pool_max_conns=10")
	for _, q := range []string{serviceSchema, `SELECT outbox_set_lanes(4)`} {
		if _, err := w.pool.Exec(t.Context(), q); err != nil {
			t.Fatal(err)
		}
	}
	w.nats = testkit.NATS(t)
	if w.nc, err = nats.Connect(w.nats.URL(), nats.MaxReconnects(-1), nats.ReconnectWait(50*time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.nc.Close)
	if w.js, err = jetstream.New(w.nc); err != nil {
		t.Fatal(err)
	}
	w.toNATS, w.toPostgres = testkit.NewLink(t, w.nats.URL()), testkit.NewLink(t, w.postgres.URL("service"))
	w.makeStreams()
	w.participate()
	s := &system{t: t}
	retain := "1h"
	if !forgetful {
		retain = historyRetain.String()
	}
	for range 2 {
		p := s.program("cmd/relay", "run", "--admin-addr", "", "--database-url", w.toPostgres.URL, "--nats-url", w.toNATS.URL, "--prefix", "hist",
			"--retain", retain, "--lease", "1s")
		p.start()
		w.relays = append(w.relays, p)
	}
	t.Cleanup(func() {
		for _, p := range w.relays {
			p.signal(continueSignal) // a stopped one could not end
		}
	})
	w.watchers.Go(w.sample)
	t.Cleanup(w.end)
	return w
}

// end stops what goes on in this process.
func (w *world) end() {
	if w.writing != nil {
		w.writing()
	}
	w.writers.Wait()
	w.closeOpen()
	for _, r := range w.readers {
		r.stop()
	}
	w.stopped.Store(true)
	w.watchers.Wait()
}

func (w *world) mustRun(program string, args ...string) {
	w.t.Helper()
	if out, err := exec.Command(program, args...).CombinedOutput(); err != nil {
		w.t.Errorf("%v: %v: %s", args, err, out)
	}
}

// try does what may fail because Postgres is away.
func (w *world) try(sql string) {
	if conn, err := w.pool.Acquire(context.Background()); err == nil {
		defer conn.Release()
		_, _ = conn.Conn().PgConn().Exec(context.Background(), sql).ReadAll() // may be several statements
	}
}

func (w *world) open(end func()) { w.ending = append(w.ending, end) }

func (w *world) closeOpen() {
	for _, end := range w.ending {
		end()
	}
	w.ending = nil
}

// makeStreams makes what a broker has that has just been set up, and follows
// what the stream takes until the broker is no more.
func (w *world) makeStreams() {
	ctx := context.Background()
	testkit.Eventually(w.t, "streams", 20*time.Second, func() (bool, string) {
		for _, cfg := range []jetstream.StreamConfig{
			{Name: wire.RepliesStream("hist"), Subjects: []string{"hist.reply.>"}, Discard: jetstream.DiscardNew, AllowAtomicPublish: true},
			{Name: wire.CommandsStream("hist"), Subjects: []string{"hist.cmd.>"}, Discard: jetstream.DiscardNew, AllowAtomicPublish: true},
		} {
			if _, err := w.js.CreateOrUpdateStream(ctx, cfg); err != nil {
				return false, err.Error()
			}
		}
		_, err := w.js.CreateOrUpdateConsumer(ctx, wire.CommandsStream("hist"), jetstream.ConsumerConfig{
			Durable: "works", FilterSubject: "hist.cmd.works.>", AckPolicy: jetstream.AckExplicitPolicy, AckWait: 2 * time.Second, MaxDeliver: -1,
		})
		return err == nil, fmt.Sprint(err)
	})
	w.mu.Lock()
	generation := len(w.wipes)
	w.mu.Unlock()
	w.watchers.Go(func() { w.follow(generation) })
}

// follow notes what the stream takes, message by message, in one generation of
// the broker.
func (w *world) follow(generation int) {
	ctx := context.Background()
	for next := uint64(1); !w.stopped.Load(); {
		w.mu.Lock()
		over := len(w.wipes) != generation
		w.mu.Unlock()
		if over {
			return
		}
		stream, err := w.js.Stream(ctx, wire.CommandsStream("hist"))
		if err != nil {
			continue // it is away
		}
		msg, err := stream.GetMsg(ctx, next)
		if errors.Is(err, jetstream.ErrMsgNotFound) {
			time.Sleep(2 * time.Millisecond)
			continue
		}
		if err != nil {
			continue
		}
		next++
		var body struct {
			Key     string
			Version int
		}
		if err := json.Unmarshal(msg.Data, &body); err != nil {
			w.t.Errorf("message %s: %v", msg.Data, err)
		}
		w.mu.Lock()
		w.stored = append(w.stored, stored{msg.Header.Get(nats.MsgIdHdr), body.Key, body.Version, msg.Time, generation})
		w.mu.Unlock()
	}
}

// participate runs a participant that notes each effect. No key keeps doubles
// out: that is the SDK's business.
func (w *world) participate() {
	if err := participant.Install(w.t.Context(), w.effects); err != nil {
		w.t.Fatal(err)
	}
	if _, err := w.effects.Exec(w.t.Context(), `CREATE TABLE effect (id text)`); err != nil {
		w.t.Fatal(err)
	}
	p, err := participant.New(participant.Config{Service: "works", NATS: w.nc, Pool: w.effects, Prefix: "hist"})
	if err != nil {
		w.t.Fatal(err)
	}
	p.Step("do", "", participant.Handlers{Do: func(ctx context.Context, tx pgx.Tx, c participant.Command) (any, error) {
		_, err := tx.Exec(ctx, `INSERT INTO effect VALUES ($1)`, c.EffectID)
		return nil, err
	}})
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- p.Run(ctx) }()
	w.t.Cleanup(func() {
		stop()
		if err := <-ended; err != nil {
			w.t.Error(err)
		}
	})
}

func newEffect() string { return uuid.NewString() + "/step/action" }

// change is one statement: the aggregate first, then the outbox, and the log of
// both.
func change(key, effect string, poison bool) string {
	id, err := wire.ParseEffectID(effect)
	if err != nil {
		return err.Error()
	}
	headers := wire.Command{EffectID: id, Saga: id.Saga, Attempt: 1, ReplyTo: "hist.reply.0", EffectTime: time.Now()}.AppendHeaders(nil)
	subject := "hist.cmd.works.do"
	if poison {
		subject = "hist.cmd.works.do something"
	}
	return fmt.Sprintf(`
		WITH a AS (UPDATE aggregate SET version = version + 1 WHERE key = '%s' RETURNING key, version),
		o AS (
			INSERT INTO outbox (key, subject, headers, payload)
			SELECT key, '%s', '%s', convert_to(json_build_object('key', key, 'version', version)::text, 'UTF8') FROM a
			RETURNING msg_id, lane, xid)
		INSERT INTO commit_log SELECT o.msg_id, a.key, a.version, o.lane, o.xid, '%s', %t, clock_timestamp() FROM a, o`, key, subject, headers, effect, poison)
}

// write starts writers that follow the rules, and do all that these allow.
func (w *world) write(seed uint64) {
	ctx, cancel := context.WithCancel(context.Background())
	w.writing = cancel
	for i := range 4 {
		r := rand.New(rand.NewPCG(seed, uint64(i+1)))
		w.writers.Go(func() {
			asked := newEffect()
			for ctx.Err() == nil {
				if r.IntN(4) > 0 {
					asked = newEffect() // else the same is asked for again, as after a timeout
				}
				if err := w.transaction(ctx, r, asked); err != nil {
					time.Sleep(20 * time.Millisecond) // Postgres is away
				}
				time.Sleep(time.Duration(r.IntN(15)) * time.Millisecond)
			}
		})
	}
}

// transaction commits one or two changes, or takes them back. It does not say
// which if the connection was lost meanwhile: the log does.
func (w *world) transaction(ctx context.Context, r *rand.Rand, effect string) error {
	w.gate.RLock()
	defer w.gate.RUnlock()
	tx, err := w.pool.Begin(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback(context.WithoutCancel(ctx)) }()
	key := string(rune('a' + r.IntN(6)))
	statements := []string{}
	add := func(likely int, sql string) {
		if r.IntN(likely) == 0 {
			statements = append(statements, sql)
		}
	}
	add(3, `SELECT pg_current_xact_id()`) // an early id, whatever it will have to wait for
	add(3, `SET LOCAL synchronous_commit = off`)
	add(5, `SELECT nextval('outbox_seq')`)
	add(6, `SAVEPOINT s; `+change(key, newEffect(), false)+`; ROLLBACK TO s`)
	add(30, change(key, newEffect(), true))
	add(1, change(key, effect, false))
	add(4, change(key, newEffect(), false))
	add(3, fmt.Sprintf(`SELECT pg_sleep(%f)`, float64(r.IntN(20))/1000))
	for _, q := range statements {
		if _, err := tx.Conn().PgConn().Exec(ctx, q).ReadAll(); err != nil {
			return err
		}
	}
	if r.IntN(7) == 0 {
		return nil // we changed our mind
	}
	return tx.Commit(ctx)
}

// showTheWrongReadersWhatTheyMiss makes happen once what random writers may not
// do: a number drawn early and committed late; and of one key, a transaction
// that began first and committed second.
func (w *world) showTheWrongReadersWhatTheyMiss(cursor, horizon *wrongReader) {
	ctx := w.t.Context()
	begin := func(statements ...string) pgx.Tx {
		tx, err := w.pool.Begin(ctx)
		if err != nil {
			w.t.Fatal(err)
		}
		for _, q := range statements {
			if _, err := tx.Exec(ctx, q); err != nil {
				w.t.Fatal(err)
			}
		}
		return tx
	}
	commit := func(tx pgx.Tx) {
		if err := tx.Commit(ctx); err != nil {
			w.t.Fatal(err)
		}
	}
	seen := func(r *wrongReader, n int) {
		testkit.Eventually(w.t, r.name, 20*time.Second, func() (bool, string) {
			w.mu.Lock()
			defer w.mu.Unlock()
			return len(r.seen) >= n, fmt.Sprint(len(r.seen))
		})
	}
	late := begin(change("long", newEffect(), false))
	second := begin(`SELECT pg_current_xact_id()`)
	commit(begin(change("shown", newEffect(), false)))
	seen(cursor, 1)
	if _, err := second.Exec(ctx, change("shown", newEffect(), false)); err != nil {
		w.t.Fatal(err)
	}
	commit(second)
	commit(late)
	seen(horizon, 3)
}

package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/skald-saga/skald/internal/testkit"
)

// P5, P9: whatever fails, in whatever order, the log of commits, the stream and
// the participants' effects agree, and the relays' positions were right all the
// time. Two ways to read an outbox that are popular and wrong read the same
// one: the checker must find out each of them.
//
// SKALD_SOAK_ROUNDS is how many faults there are, SKALD_SOAK_SEED what chooses
// them.
func TestEveryHistoryAgreesWhateverFails(t *testing.T) {
	t.Parallel()
	for name, forgetful := range map[string]bool{"a ring that turns fast": false, "a broker that forgets": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			seed, rounds := wish(t, "SKALD_SOAK_SEED", rand.Uint64()), int(wish(t, "SKALD_SOAK_ROUNDS", 10))
			t.Logf("SKALD_SOAK_SEED=%d", seed)
			r := rand.New(rand.NewPCG(seed, 0))
			w := startWorld(t, forgetful)
			cursor, horizon := w.wrongReader(byNumber), w.wrongReader(byOldestTransaction)
			w.showTheWrongReadersWhatTheyMiss(cursor, horizon)
			w.write(seed)
			stopTurning := sync.OnceFunc(w.turnFast())
			defer stopTurning()
			for i := range rounds {
				if i == rounds/2 {
					stopTurning()
				}
				name, fault := w.fault(r, i == rounds/2)
				t.Logf("fault %d: %s", i+1, name)
				fault()
				time.Sleep(time.Duration(100+r.IntN(500)) * time.Millisecond) // faults overlap with what they leave behind
			}
			w.heal()
			h := w.history()
			for _, wrong := range first(h.check(), 20) {
				t.Error(wrong)
			}
			if len(h.committed) < 50*rounds/10 || len(h.stored) <= len(h.committed)*9/10 {
				t.Errorf("%d commits, %d publications: nothing was tried", len(h.committed), len(h.stored))
			}
			t.Logf("%d commits, %d publications, %d samples of positions, %d rows gone", len(h.committed), len(h.stored), len(h.lanes), len(h.gone))
			cursor.mustBeFoundOut(t, h, "I1 lost")
			horizon.mustBeFoundOut(t, h, "I4 order")
		})
	}
}

// wish returns the number that the environment has, or another.
func wish(t *testing.T, name string, otherwise uint64) uint64 {
	t.Helper()
	s := os.Getenv(name)
	if s == "" {
		return otherwise
	}
	n, err := strconv.ParseUint(s, 10, 64)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return n
}

func first(all []string, n int) []string { return all[:min(n, len(all))] }

// fault chooses what fails next. Each has passed, or will by itself, when its
// function returns; heal ends what is left open. A special one is what this
// world is for.
func (w *world) fault(r *rand.Rand, special bool) (name string, do func()) {
	type fault struct {
		name string
		do   func()
	}
	turn, forget := fault{"another part of the ring", w.turn}, fault{"NATS forgets everything", func() { w.restartNATS(true) }}
	faults := []fault{
		{"kill -9 of a relay", func() { w.relays[r.IntN(len(w.relays))].restart() }},
		{"a pause of a relay", func() { w.pause(w.relays[r.IntN(len(w.relays))], time.Duration(r.IntN(2000))*time.Millisecond) }},
		{"the relays' connections to NATS cut", w.toNATS.Cut},
		{"the relays' connections to Postgres cut", w.toPostgres.Cut},
		{"a crash of Postgres", w.crashPostgres},
		{"a restart of NATS", func() { w.restartNATS(false) }},
		{"a writer that goes on for long", func() { w.open(w.longWriter()) }},
		{"a writer in another database", func() { w.open(w.foreignWriter()) }},
		{"a prepared transaction that nobody ends", w.orphan},
		turn,
	}
	f := faults[r.IntN(len(faults))]
	switch {
	case special && w.forgetful:
		f = forget
	case special:
		f = turn
	case w.forgetful && r.IntN(8) == 0:
		f = forget
	}
	return f.name, f.do
}

// pause stops a relay for longer than it takes the others to notice, or not,
// and lets it go on as if nothing had been.
func (w *world) pause(p *process, d time.Duration) {
	p.signal(stopSignal)
	time.Sleep(d)
	p.signal(continueSignal)
}

// crashPostgres crashes when there are commits that can be seen and are not on
// disk: nobody else may commit then, because that would put them there.
func (w *world) crashPostgres() {
	w.mu.Lock()
	w.era++ // positions may go back
	w.mu.Unlock()
	w.closeOpen()
	w.gate.Lock()
	defer w.gate.Unlock()
	for range 3 {
		w.try(`BEGIN; SET LOCAL synchronous_commit = off; ` + change("lazy", newEffect(), false) + `; COMMIT`)
		time.Sleep(20 * time.Millisecond) // the relay has seen it
	}
	w.postgres.Kill()
	if err := w.postgres.Start(context.Background()); err != nil {
		w.t.Fatal(err)
	}
	w.mu.Lock()
	w.era++
	w.mu.Unlock()
}

// restartNATS lets a broker forget everything, if that is wanted, and has
// published again what it forgot.
func (w *world) restartNATS(forget bool) {
	w.nats.Halt()
	if forget {
		w.mu.Lock()
		w.wipes = append(w.wipes, time.Now())
		w.mu.Unlock()
		if err := w.nats.Wipe(); err != nil {
			w.t.Fatal(err)
		}
	}
	if err := w.nats.Start(); err != nil {
		w.t.Fatal(err)
	}
	if !forget {
		return
	}
	w.makeStreams()
	w.rewind()
}

// rewind is what an operator does when a broker has lost messages.
func (w *world) rewind() {
	w.mu.Lock()
	w.era++
	w.mu.Unlock()
	w.mustRun(testkit.Build(w.t, "cmd/relay"), "rewind", "--since", "1h", "--database-url", w.postgres.URL("service"))
	w.mu.Lock()
	w.era++
	w.mu.Unlock()
}

// turn has writers go on in another part of the ring, so that the relay may
// empty the one that they have left when what is in it is old enough.
func (w *world) turn() {
	w.try(`UPDATE outbox_ring SET current_slot = (current_slot + 3) % 4, switched_at = clock_timestamp() - interval '1 day'`)
}

// turnFast does so again and again, until the function that it returns is
// called: what is then in the next part of the ring is always too young to be
// taken away. In a world whose broker may forget nothing is ever old enough.
func (w *world) turnFast() (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for ctx.Err() == nil {
			w.turn()
			time.Sleep(200 * time.Millisecond)
		}
	}()
	return func() { cancel(); <-ended }
}

// orphan leaves a prepared transaction with a message in it. heal commits it.
func (w *world) orphan() {
	name := fmt.Sprintf("orphan-%d", time.Now().UnixNano())
	tx, err := w.pool.Acquire(context.Background())
	if err != nil {
		return
	}
	defer tx.Release()
	for _, q := range []string{"BEGIN", "SET LOCAL lock_timeout = '300ms'", change("orphan", newEffect(), false), "PREPARE TRANSACTION '" + name + "'"} {
		if _, err := tx.Exec(context.Background(), q); err != nil {
			_, _ = tx.Exec(context.Background(), "ROLLBACK")
			return // the last orphan has its key
		}
	}
}

// longWriter begins a transaction that is committed later: when the next one
// begins, or at the end.
func (w *world) longWriter() func() {
	tx, err := w.pool.Begin(context.Background())
	if err != nil {
		return func() {}
	}
	if _, err := tx.Exec(context.Background(), `SET LOCAL lock_timeout = '300ms'`); err == nil {
		_, err = tx.Exec(context.Background(), change("long", newEffect(), false))
		_ = err // the one before it goes on: then this one has nothing to commit
	}
	return func() { _ = tx.Commit(context.Background()) }
}

// foreignWriter has a transaction id in another database of the cluster.
func (w *world) foreignWriter() func() {
	tx, err := w.elsewhere.Begin(context.Background())
	if err != nil {
		return func() {}
	}
	_, _ = tx.Exec(context.Background(), `SELECT pg_current_xact_id()`)
	return func() { _ = tx.Rollback(context.Background()) }
}

// wrong readers.
type wrongReader struct {
	name string
	read func(ctx context.Context) ([]stored, error)
	seen []stored
	stop func()
}

const (
	byNumber            = "a cursor on the number"
	byOldestTransaction = "waiting for the oldest transaction, in the order of (xid, seq)"
)

// wrongReader reads the outbox in a way that must be found out.
func (w *world) wrongReader(name string) *wrongReader {
	r := &wrongReader{name: name}
	var seq int64
	xid := "0"
	q := `SELECT msg_id::text, key, convert_from(payload, 'UTF8'), seq, xid::text FROM outbox WHERE seq > $1 AND $2::text <> '' AND subject LIKE 'hist.%' ORDER BY seq`
	if name == byOldestTransaction {
		q = `SELECT msg_id::text, key, convert_from(payload, 'UTF8'), seq, xid::text FROM outbox
			WHERE (xid, seq) > ($2::xid8, $1) AND xid < pg_snapshot_xmin(pg_current_snapshot()) AND subject LIKE 'hist.%' ORDER BY xid, seq`
	}
	r.read = func(ctx context.Context) ([]stored, error) {
		rows, err := w.pool.Query(ctx, q, seq, xid)
		if err != nil {
			return nil, err
		}
		defer rows.Close()
		var got []stored
		for rows.Next() {
			var s stored
			var payload string
			if err := rows.Scan(&s.msgID, &s.key, &payload, &seq, &xid); err != nil {
				return nil, err
			}
			var body struct{ Version int }
			if err := json.Unmarshal([]byte(payload), &body); err != nil {
				return nil, err
			}
			s.version = body.Version
			got = append(got, s)
		}
		return got, rows.Err()
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	r.stop = func() { cancel(); <-ended }
	w.readers = append(w.readers, r)
	go func() {
		defer close(ended)
		for ctx.Err() == nil {
			got, _ := r.read(ctx) // Postgres may be away
			w.mu.Lock()
			r.seen = append(r.seen, got...)
			w.mu.Unlock()
			time.Sleep(5 * time.Millisecond)
		}
	}()
	return r
}

func (r *wrongReader) mustBeFoundOut(t *testing.T, h *history, fault string) {
	t.Helper()
	theirs := *h
	theirs.stored, theirs.wipes = r.seen, nil
	for i := range theirs.stored {
		theirs.stored[i].generation = 0
	}
	wrong := theirs.check()
	if !slices.ContainsFunc(wrong, func(w string) bool { return strings.HasPrefix(w, fault) }) {
		t.Errorf("%s was not found out: it made no fault %q in %d messages", r.name, fault, len(r.seen))
	}
}

package outbox

import (
	"slices"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/skald-saga/skald/internal/testkit"
)

// P9: a transaction that drew its number first and commits last is not lost.
// A reader that goes by the number is shown to lose it.
func TestARowThatCommitsLateIsPublished(t *testing.T) {
	t.Parallel()
	pool := testkit.Postgres(t)
	relay := newStepper(t, pool)
	var cursor int64
	var byCursor []string
	readByCursor := func() {
		byCursor = append(byCursor, askAll[string](t, pool, `SELECT subject FROM outbox WHERE seq > $1 ORDER BY seq`, cursor)...)
		cursor = ask[int64](t, pool, `SELECT coalesce(max(seq), 0) FROM outbox`)
	}

	late := begin(t, pool)
	insert(t, late, "a", "late")
	insert(t, pool, "b", "early")
	relay.drain(t)
	readByCursor()
	commit(t, late)
	relay.drain(t)
	readByCursor()

	wantSubjects(t, "the relay", relay.broker.subjects(), "early", "late")
	wantSubjects(t, "the reader that goes by the number, which must be seen to fail", byCursor, "early")
}

// P9: what others leave open does not hold up what was committed. A reader that
// waits for the oldest transaction is shown to stall.
func TestALongTransactionHoldsUpNobody(t *testing.T) {
	t.Parallel()
	for name, open := range map[string]func(t *testing.T, tx, other pgx.Tx){
		"one that wrote to the outbox": func(t *testing.T, tx, _ pgx.Tx) { insert(t, tx, "long", "long") },
		"one that wrote elsewhere":     func(t *testing.T, tx, _ pgx.Tx) { ask[string](t, tx, `SELECT pg_current_xact_id()::text`) },
		"one in another database":      func(t *testing.T, _, other pgx.Tx) { ask[string](t, other, `SELECT pg_current_xact_id()::text`) },
		"one with an outbox savepoint": func(t *testing.T, tx, _ pgx.Tx) { execute(t, tx, `SAVEPOINT s`); insert(t, tx, "long", "long") },
		"one that took a lock on tables": func(t *testing.T, tx, _ pgx.Tx) {
			execute(t, tx, `LOCK TABLE outbox IN ROW EXCLUSIVE MODE`)
			ask[string](t, tx, `SELECT pg_current_xact_id()::text`)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			pool, other := testkit.Postgres(t), testkit.Pool(t, testkit.EmptyDatabaseURL(t))
			relay := newStepper(t, pool)
			open(t, begin(t, pool), begin(t, other))
			insert(t, pool, "short", "short")
			relay.drain(t)
			wantSubjects(t, "the relay", relay.broker.subjects(), "short")
			wantSubjects(t, "the reader that waits for the oldest transaction, which must be seen to stall",
				askAll[string](t, pool, `SELECT subject FROM outbox WHERE xid < pg_snapshot_xmin(pg_current_snapshot())`))
		})
	}
}

// P9: messages of one key leave in the order of their commits. The transaction
// that commits second began first, so a reader in the order of (xid, seq) is
// shown to turn them round.
func TestMessagesOfAKeyKeepTheOrderOfTheirCommits(t *testing.T) {
	t.Parallel()
	pool := testkit.Postgres(t)
	relay := newStepper(t, pool)
	execute(t, pool, `CREATE TABLE aggregate (id int); INSERT INTO aggregate VALUES (1)`)
	second, first := begin(t, pool), begin(t, pool)
	ask[string](t, second, `SELECT pg_current_xact_id()::text`)
	for _, w := range []struct {
		tx      pgx.Tx
		subject string
	}{{first, "first"}, {second, "second"}} {
		execute(t, w.tx, `UPDATE aggregate SET id = 1`)
		insert(t, w.tx, "k", w.subject)
		commit(t, w.tx)
	}
	relay.drain(t)
	wantSubjects(t, "the relay", relay.broker.subjects(), "first", "second")
	wantSubjects(t, "the reader in the order of (xid, seq), which must be seen to turn them round",
		askAll[string](t, pool, `SELECT subject FROM outbox ORDER BY xid, seq`), "second", "first")
}

// P9: no message of a transaction that did not commit leaves.
func TestWhatIsRolledBackNeverLeaves(t *testing.T) {
	t.Parallel()
	pool := testkit.Postgres(t)
	relay := newStepper(t, pool)

	rolledBack := begin(t, pool)
	insert(t, rolledBack, "k", "rolled back")
	half := begin(t, pool)
	insert(t, half, "k", "before the savepoint")
	execute(t, half, `SAVEPOINT s`)
	insert(t, half, "k", "after the savepoint")
	cut, err := pgx.Connect(t.Context(), pool.Config().ConnString())
	if err != nil {
		t.Fatal(err)
	}
	execute(t, cut, `BEGIN`)
	insert(t, cut, "k", "connection lost")
	relay.drain(t)
	wantSubjects(t, "while all are open", relay.broker.subjects())

	if err := rolledBack.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	execute(t, half, `ROLLBACK TO s`)
	commit(t, half)
	if err := cut.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	insert(t, pool, "k", "committed")
	relay.drain(t)
	wantSubjects(t, "when all have ended", relay.broker.subjects(), "before the savepoint", "committed")
}

// Messages are numbered in the order in which they are given.
func TestQueueKeepsItsOrder(t *testing.T) {
	t.Parallel()
	pool := testkit.Postgres(t)
	relay := newStepper(t, pool)
	want := numbered("s", 300)
	var messages []Message
	for _, subject := range want {
		messages = append(messages, Message{Key: "k", MsgID: newID(t), Subject: subject, Payload: []byte(subject)})
	}
	messages[1].Headers = []byte(`{"a": "b"}`)
	messages[2].Payload = nil
	err := pgx.BeginFunc(t.Context(), pool, func(tx pgx.Tx) error {
		b := &pgx.Batch{}
		Queue(b, nil) // nothing at all
		Queue(b, messages)
		return tx.SendBatch(t.Context(), b).Close()
	})
	if err != nil {
		t.Fatal(err)
	}
	relay.drain(t)
	wantSubjects(t, "published", relay.broker.subjects(), want...)
	taken := relay.broker.taken
	for i, m := range messages {
		if taken[i].MsgID != m.MsgID || string(taken[i].Payload) != string(m.Payload) {
			t.Fatalf("message %d: got %+v, want %+v", i, taken[i], m)
		}
	}
	if string(taken[0].Headers) != `{}` || string(taken[1].Headers) != `{"a": "b"}` {
		t.Errorf("headers: got %s and %s", taken[0].Headers, taken[1].Headers)
	}
	if !slices.IsSortedFunc(taken, func(a, b Row) int { return int(a.Seq - b.Seq) }) {
		t.Error("sequence numbers are not in order")
	}
}

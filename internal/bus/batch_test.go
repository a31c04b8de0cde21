package bus

import (
	"fmt"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/skald-saga/skald/internal/embedded"
	"github.com/skald-saga/skald/internal/outbox"
	"github.com/skald-saga/skald/internal/testkit"
)

// page makes rows of a few keys, alternately.
func page(n, keys int, subject string) []outbox.Row {
	rows := make([]outbox.Row, n)
	for i := range rows {
		rows[i] = row(strconv.Itoa(i%keys), fmt.Sprintf("%s.%d", subject, i))
	}
	return rows
}

func acked(t testing.TB, results []outbox.Result) {
	t.Helper()
	for i, res := range results {
		if res.Err != nil {
			t.Fatalf("row %d: %v", i, res.Err)
		}
	}
}

// batchesOf returns the batch of each message of a stream; "" for none.
func batchesOf(t testing.TB, js jetstream.JetStream, stream string) (ids []string) {
	t.Helper()
	for _, m := range stored(t, js, stream) {
		ids = append(ids, m.Header.Get(headerBatchID))
	}
	return ids
}

// P9: a page leaves as one batch for each stream, and a key that changes
// streams is nowhere ahead of itself.
func TestAPageLeavesAsBatchesInTheOrderOfItsKeys(t *testing.T) {
	t.Parallel()
	p, js, nc := publisher(t)
	p.Method = Batch
	createStream(t, js, "T", "t.>", nil)
	passed := watch(t, connect(t, nc.ConnectedUrl()), "s.>", "t.>")
	rows := []outbox.Row{
		row("a", "s.a1"), row("b", "t.b1"), row("a", "s.a2"), row("b", "t.b2"), row("c", "s.c1"), // one batch each
		row("a", "t.a3"), row("b", "t.b3"), row("d", "t.d1"), row("a", "t.a4"), row("e", "s.e1"), row("a", "s.a5"),
	}
	acked(t, p.Publish(t.Context(), rows))
	want(t, "S", storedSubjects(t, js, "S"), "s.a1", "s.a2", "s.c1", "s.e1", "s.a5")
	want(t, "T", storedSubjects(t, js, "T"), "t.b1", "t.b2", "t.b3", "t.d1", "t.a3", "t.a4")
	s, u := batchesOf(t, js, "S"), batchesOf(t, js, "T")
	for name, ids := range map[string][]string{"S": s[:4], "T, first": u[:4], "T, second": u[4:]} {
		if ids[0] == "" || len(slices.Compact(slices.Clone(ids))) != 1 {
			t.Errorf("%s: batches %q, want one", name, ids)
		}
	}
	if s[4] != "" {
		t.Errorf("one row alone went as batch %q", s[4])
	}
	places := map[string]int{}
	order := passed(len(rows))
	for i, subject := range order {
		places[subject] = i
	}
	for _, key := range [][]string{{"s.a1", "s.a2", "t.a3", "t.a4", "s.a5"}, {"t.b1", "t.b2", "t.b3"}} {
		for i := range key[1:] {
			if places[key[i]] > places[key[i+1]] {
				t.Errorf("%s was sent after %s: %v", key[i], key[i+1], order)
			}
		}
	}
}

// P9: when nobody knows whether a batch has arrived, its rows may pass, and the
// same rows once more are stored once; whether it had arrived or not.
func TestALostAcknowledgementOfABatchIsNoLoss(t *testing.T) {
	t.Parallel()
	for name, arrives := range map[string]bool{"the batch had arrived": true, "the batch had not arrived": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := testkit.NATS(t)
			js := jetStream(t, connect(t, server.URL()))
			createStream(t, js, "S", "s.>", nil)
			l := testkit.NewLink(t, server.URL())
			nc := connect(t, l.URL)
			p, err := NewPublisher(nc)
			if err != nil {
				t.Fatal(err)
			}
			p.Method = Batch
			acked(t, p.Publish(t.Context(), page(2, 2, "s.first"))) // it knows the stream
			rows := page(20, 3, "s.x")
			l.Mute.Store(true)
			l.Deaf.Store(!arrives)
			for i, res := range p.Publish(t.Context(), rows) {
				if res.Err == nil || res.Poison || res.Blocked || !res.Unknown {
					t.Errorf("row %d: got %+v, want an unknown outcome", i, res)
				}
			}
			l.Mute.Store(false)
			l.Deaf.Store(false)
			l.Cut()
			testkit.Eventually(t, "connected again", 20*time.Second, func() (bool, string) { return nc.Stats().Reconnects > 0, "" })
			if n := count(js, "S"); (n == 22) != arrives {
				t.Fatalf("%d messages are stored", n)
			}
			results := p.Publish(t.Context(), rows)
			acked(t, results)
			for i, res := range results {
				if res.Duplicate != arrives {
					t.Errorf("row %d: duplicate %t", i, res.Duplicate)
				}
			}
			got := storedSubjects(t, js, "S")[2:]
			for i, r := range rows {
				if i >= len(got) || got[i] != r.Subject {
					t.Fatalf("stored: %v", got)
				}
			}
		})
	}
}

// P9: that JetStream knows a row of a batch does not say that it has the others:
// the batch may be cut otherwise than before, by us or by another relay.
func TestABatchOfWhichAPartIsKnownIsCompleted(t *testing.T) {
	t.Parallel()
	p, js, _ := publisher(t)
	p.Method = Batch
	rows := page(10, 2, "s.x")
	acked(t, p.Publish(t.Context(), rows[:4]))
	results := p.Publish(t.Context(), rows)
	acked(t, results)
	for i, res := range results {
		if res.Duplicate != (i < 4) {
			t.Errorf("row %d: duplicate %t", i, res.Duplicate)
		}
	}
	var subjects []string
	for _, r := range rows {
		subjects = append(subjects, r.Subject)
	}
	want(t, "stored", storedSubjects(t, js, "S"), subjects...)
}

// A stream or server that takes no batch gets the rows one by one.
func TestRowsThatCannotBeABatchLeaveOneByOne(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		config string
		change func(t *testing.T, js jetstream.JetStream, nc *nats.Conn)
	}{
		"the stream takes none": {change: func(t *testing.T, js jetstream.JetStream, _ *nats.Conn) {
			update(t, js, "S", func(c *jetstream.StreamConfig) { c.AllowAtomicPublish = false })
		}},
		"the server takes smaller ones":     {config: `jetstream {limits {batch {max_msgs: 5}}}`},
		"another stream takes the subjects": {change: moveSubjects},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			nc := connect(t, testkit.NATSWith(t, embedded.NATSConfig{Config: c.config}).URL())
			js := jetStream(t, nc)
			createStream(t, js, "S", "s.>", nil)
			p, err := NewPublisher(nc)
			if err != nil {
				t.Fatal(err)
			}
			p.Method = Batch
			acked(t, p.Publish(t.Context(), page(2, 2, "s.first")))
			if c.change != nil {
				c.change(t, js, nc)
			}
			for n := range 2 {
				acked(t, p.Publish(t.Context(), page(10, 3, "s.x"+strconv.Itoa(n))))
			}
			got := 0
			for _, name := range []string{"S", "MOVED"} {
				got += max(0, count(js, name))
			}
			if got != 22 {
				t.Errorf("%d messages are stored, want 22", got)
			}
		})
	}
}

func update(t testing.TB, js jetstream.JetStream, stream string, change func(*jetstream.StreamConfig)) {
	t.Helper()
	s, err := js.Stream(t.Context(), stream)
	if err != nil {
		t.Fatal(err)
	}
	cfg := s.CachedInfo().Config
	change(&cfg)
	if _, err := js.UpdateStream(t.Context(), cfg); err != nil {
		t.Fatal(err)
	}
}

// moveSubjects gives half of the subjects to another stream.
func moveSubjects(t *testing.T, js jetstream.JetStream, _ *nats.Conn) {
	t.Helper()
	update(t, js, "S", func(c *jetstream.StreamConfig) {
		c.Subjects = []string{"s.*.0", "s.*.1", "s.*.2", "s.*.3", "s.*.9"}
	})
	createStream(t, js, "MOVED", "s.*.4", func(c *jetstream.StreamConfig) {
		c.Subjects = []string{"s.*.4", "s.*.5", "s.*.6", "s.*.7", "s.*.8"}
	})
}

// A row that the stream refuses does not keep its page from leaving, nor does
// one that we refuse ourselves.
func TestOneRowDoesNotKeepItsBatchFromLeaving(t *testing.T) {
	t.Parallel()
	p, js, _ := publisher(t)
	p.Method = Batch
	update(t, js, "S", func(c *jetstream.StreamConfig) { c.MaxMsgSize = 1000 })
	for name, change := range map[string]func(*outbox.Row){
		"too large for the stream": func(r *outbox.Row) { r.Payload = make([]byte, 2000) },
		"too large for the server": func(r *outbox.Row) { r.Payload = make([]byte, 2<<20) },
		"without a valid subject":  func(r *outbox.Row) { r.Subject = "s.*" },
	} {
		before := count(js, "S")
		rows := page(10, 5, "s.x")
		change(&rows[4])
		for i, res := range p.Publish(t.Context(), rows) {
			if res.Poison != (i == 4) || (res.Err != nil) != (i == 4) {
				t.Errorf("%s: row %d: %+v", name, i, res)
			}
		}
		if n := count(js, "S") - before; n != 9 {
			t.Errorf("%s: %d messages arrived, want 9", name, n)
		}
	}
}

// How rows leave is decided by what pays: one by one where a message costs
// little, as batches where each waits for the disk; which is measured.
func TestRowsLeaveAsBatchesWhereThatPays(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		pace  time.Duration // what a row was measured to cost; zero: not yet
		batch bool
	}{
		"it is not known what a row costs": {},
		"rows cost little":                 {pace: 20 * time.Microsecond},
		"each row waits for the disk":      {pace: 2 * time.Millisecond, batch: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p, js, _ := publisher(t)
			p.streams.of(t.Context(), "s.x")
			p.streams.pace = c.pace
			acked(t, p.Publish(t.Context(), page(200, 200, "s.x")))
			if got := batchesOf(t, js, "S")[0] != ""; got != c.batch {
				t.Errorf("sent as a batch: %t, want %t", got, c.batch)
			}
			if measured := p.streams.pace != c.pace; measured == c.batch {
				t.Errorf("measured: %t, want %t", measured, !c.batch)
			}
		})
	}
}

// watch notes the subjects of messages as they pass, in their order.
func watch(t testing.TB, nc *nats.Conn, subjects ...string) (passed func(n int) []string) {
	t.Helper()
	all := make(chan *nats.Msg, 1000)
	for _, s := range subjects {
		if _, err := nc.ChanSubscribe(s, all); err != nil {
			t.Fatal(err)
		}
	}
	if err := nc.Flush(); err != nil {
		t.Fatal(err)
	}
	return func(n int) (subjects []string) {
		for range n {
			select {
			case m := <-all:
				subjects = append(subjects, m.Subject)
			case <-time.After(10 * time.Second):
				t.Fatalf("only %v passed", subjects)
			}
		}
		return subjects
	}
}

package bus

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/skald-saga/skald/internal/outbox"
	"github.com/skald-saga/skald/internal/testkit"
)

// publisher returns one on a server of its own, with a stream S for s.>.
func publisher(t testing.TB) (*Publisher, jetstream.JetStream, *nats.Conn) {
	t.Helper()
	nc := connect(t, testkit.NATS(t).URL())
	js := jetStream(t, nc)
	createStream(t, js, "S", "s.>", nil)
	p, err := NewPublisher(nc)
	if err != nil {
		t.Fatal(err)
	}
	return p, js, nc
}

// eachMethod runs a test for rows that go one by one and for batches.
func eachMethod(t *testing.T, test func(*testing.T, *Publisher, jetstream.JetStream)) {
	for _, method := range []Method{Async, Batch} {
		t.Run(string(method), func(t *testing.T) {
			t.Parallel()
			p, js, _ := publisher(t)
			p.Method = method
			test(t, p, js)
		})
	}
}

// A message carries what its row says and what every message must have.
func TestAMessageIsCompleted(t *testing.T) {
	t.Parallel()
	p, js, _ := publisher(t)
	r := row("k", "s.a")
	r.Headers = []byte(`{"ce-type": "t", "Content-Type": "text/plain", "Nats-Msg-Id": "mine", "empty": ""}`)
	r.CreatedAt = time.Date(2026, 2, 3, 4, 5, 6, 7000, time.FixedZone("", 3600))
	bare := row("k", "s.b")
	bare.Headers = []byte(`null`)
	for i, res := range p.Publish(t.Context(), []outbox.Row{r, bare}) {
		if res.Err != nil {
			t.Fatalf("message %d: %v", i, res.Err)
		}
	}
	got := stored(t, js, "S")
	for name, v := range map[string]string{
		"Nats-Msg-Id": r.MsgID.String(), "ce-id": r.MsgID.String(), "ce-specversion": "1.0", "ce-time": "2026-02-03T03:05:06.000007Z",
		"ce-type": "t", "Content-Type": "text/plain", "empty": "",
	} {
		if got := got[0].Header[name]; len(got) != 1 || got[0] != v {
			t.Errorf("header %s: got %q, want %q", name, got, v)
		}
	}
	if string(got[0].Data) != "s.a" {
		t.Errorf("body: got %q", got[0].Data)
	}
	if id := got[1].Header.Get("Nats-Msg-Id"); id != bare.MsgID.String() {
		t.Errorf("without headers: got message id %q", id)
	}
}

// P10: what the broker will never take is told from what may pass, and does not
// keep the other messages of its page from leaving.
func TestPoisonIsToldFromWhatMayPass(t *testing.T) {
	t.Parallel()
	eachMethod(t, func(t *testing.T, p *Publisher, js jetstream.JetStream) {
		createStream(t, js, "SMALL", "small.>", func(c *jetstream.StreamConfig) { c.MaxMsgSize = 1000 })
		createStream(t, js, "FULL", "full.>", func(c *jetstream.StreamConfig) { c.MaxMsgs = 1 })
		if _, err := js.Publish(t.Context(), "full.a", nil); err != nil {
			t.Fatal(err)
		}
		var missing atomic.Int32
		p.Missing = func() { missing.Add(1) }
		header := func(h string) func(*outbox.Row) { return func(r *outbox.Row) { r.Headers = []byte(h) } }
		subject := func(s string) func(*outbox.Row) { return func(r *outbox.Row) { r.Subject = s } }
		for name, c := range map[string]struct {
			change  func(*outbox.Row)
			poison  bool
			missing bool
		}{
			"more than the server's max_payload":      {change: func(r *outbox.Row) { r.Payload = make([]byte, 1<<20+1) }, poison: true},
			"headers of more than 64 KiB":             {change: header(`{"h": "` + strings.Repeat("x", 1<<16) + `"}`), poison: true},
			"headers over max_payload":                {change: header(`{"h": "` + strings.Repeat("x", 1<<20) + `"}`), poison: true},
			"more than the stream's max_msg_size":     {change: func(r *outbox.Row) { r.Subject, r.Payload = "small.a", make([]byte, 2000) }, poison: true},
			"no subject":                              {change: subject(""), poison: true},
			"a subject with a wildcard":               {change: subject("s.*"), poison: true},
			"a subject with another wildcard":         {change: subject("s.>"), poison: true},
			"a subject with a space":                  {change: subject("s.a b"), poison: true},
			"a subject with a line feed":              {change: subject("s.a\r\nPUB x 0"), poison: true},
			"a subject with an empty part":            {change: subject("s..a"), poison: true},
			"a subject that ends with a dot":          {change: subject("s.a."), poison: true},
			"a subject longer than a protocol line":   {change: subject("s." + strings.Repeat("a", 5000)), poison: true},
			"a subject of the server's":               {change: subject("$JS.API.STREAM.DELETE.S"), poison: true},
			"headers that are not an object":          {change: header(`["a"]`), poison: true},
			"headers that are not strings":            {change: header(`{"a": 1}`), poison: true},
			"a header with a line feed":               {change: header(`{"a": "b\r\nc: d"}`), poison: true},
			"a header name with a colon":              {change: header(`{"a:b": "c"}`), poison: true},
			"a header without a name":                 {change: header(`{"": "c"}`), poison: true},
			"a header that would empty the stream":    {change: header(`{"Nats-Rollup": "all"}`), poison: true},
			"a header that would wait for a batch":    {change: header(`{"Nats-Batch-Id": "b", "Nats-Batch-Sequence": "1"}`), poison: true},
			"a header that expects what is not there": {change: header(`{"Nats-Expected-Last-Sequence": "77"}`), poison: true},
			"a subject that no stream takes":          {change: subject("nobody.a"), missing: true},
			"a stream that is full":                   {change: subject("full.b")},
		} {
			before := missing.Load()
			bad := row("bad", "s.bad")
			c.change(&bad)
			rows := []outbox.Row{bad, row("good", "s.good")}
			results := p.Publish(t.Context(), rows)
			if err := results[0].Err; err == nil || results[0].Poison != c.poison {
				t.Errorf("%s: got %v, poison: %t", name, err, results[0].Poison)
			}
			if c.poison && results[1].Err != nil {
				t.Errorf("%s: the message behind it did not leave: %v", name, results[1].Err)
			}
			if told := missing.Load() > before; told != c.missing {
				t.Errorf("%s: reported as a missing stream: %t, want %t", name, told, c.missing)
			}
		}
	})
}

// P9: while a message may have to be sent again, none of the same key is sent
// after it.
func TestAMessageDoesNotOvertakeOneOfItsKey(t *testing.T) {
	t.Parallel()
	eachMethod(t, func(t *testing.T, p *Publisher, js jetstream.JetStream) {
		rows := []outbox.Row{row("k", "missing.1"), row("other", "s.other"), row("k", "s.2"), row("k", "s.3")}
		results := p.Publish(t.Context(), rows)
		for _, i := range []int{0, 2, 3} {
			if results[i].Err == nil || results[i].Poison {
				t.Errorf("row %d: got %+v, want an error that may pass", i, results[i])
			}
		}
		want(t, "while the first cannot leave", storedSubjects(t, js, "S"), "s.other")
		createStream(t, js, "MISSING", "missing.>", nil)
		for i, res := range p.Publish(t.Context(), rows) {
			if res.Err != nil {
				t.Errorf("row %d: %v", i, res.Err)
			}
		}
		want(t, "when it can", storedSubjects(t, js, "S"), "s.other", "s.2", "s.3")
		want(t, "and itself", storedSubjects(t, js, "MISSING"), "missing.1")
	})
}

// P9, P10: poison is not sent again, so the next of its key may leave; whether
// we know the poison, or the server tells us.
func TestAMessageFollowsAPoisonedOneOfItsKey(t *testing.T) {
	t.Parallel()
	eachMethod(t, func(t *testing.T, p *Publisher, js jetstream.JetStream) {
		createStream(t, js, "SMALL", "small.>", func(c *jetstream.StreamConfig) { c.MaxMsgSize = 1 })
		results := p.Publish(t.Context(), []outbox.Row{row("k", "s.1"), row("k", "s.*"), row("k", "s.3"), row("k", "small.4"), row("k", "s.5")})
		for i, res := range results {
			if poisoned := i == 1 || i == 3; res.Poison != poisoned || (res.Err == nil) == poisoned {
				t.Errorf("row %d: got %+v", i, res)
			}
		}
		want(t, "stored", storedSubjects(t, js, "S"), "s.1", "s.3", "s.5")
	})
}

// A page may be larger than what is under way at once, and of few keys or many.
func TestALargePageIsPublishedWholeAndInTheOrderOfItsKeys(t *testing.T) {
	t.Parallel()
	for name, keys := range map[string]int{"of as many keys as rows": 1500, "of three keys": 3, "of one key": 1} {
		t.Run(name, func(t *testing.T) {
			eachMethod(t, func(t *testing.T, p *Publisher, js jetstream.JetStream) {
				rows := make([]outbox.Row, 1500)
				for i := range rows {
					rows[i] = row(strconv.Itoa(i%keys), fmt.Sprintf("s.%d.%d", i%keys, i))
				}
				for i, res := range p.Publish(t.Context(), rows) {
					if res.Err != nil {
						t.Fatalf("row %d: %v", i, res.Err)
					}
				}
				got := storedSubjects(t, js, "S")
				if len(got) != len(rows) {
					t.Fatalf("%d messages are stored, want %d", len(got), len(rows))
				}
				last := map[string]int{}
				for _, s := range got {
					parts := strings.Split(s, ".")
					n, err := strconv.Atoi(parts[2])
					if err != nil || n < last[parts[1]] {
						t.Fatalf("%s came after row %d of its key", s, last[parts[1]])
					}
					last[parts[1]] = n
				}
			})
		})
	}
}

// A message that is published again under its id is acknowledged and dropped.
func TestAMessageThatIsPublishedAgainIsDropped(t *testing.T) {
	t.Parallel()
	eachMethod(t, func(t *testing.T, p *Publisher, js jetstream.JetStream) {
		rows := []outbox.Row{row("a", "s.a"), row("b", "s.b")}
		for range 3 {
			for i, res := range p.Publish(t.Context(), rows) {
				if res.Err != nil {
					t.Fatalf("row %d: %v", i, res.Err)
				}
			}
		}
		want(t, "stored", storedSubjects(t, js, "S"), "s.a", "s.b")
	})
}

// The outcome of a message that nobody acknowledges is unknown: an error that
// may pass, after a while.
func TestAnAcknowledgementThatNeverComesIsAnUnknownOutcome(t *testing.T) {
	t.Parallel()
	p, _, nc := publisher(t)
	silent, err := nc.SubscribeSync("silent")
	if err != nil {
		t.Fatal(err)
	}
	res := p.Publish(t.Context(), []outbox.Row{row("k", "silent")})[0]
	if !errors.Is(res.Err, jetstream.ErrAsyncPublishTimeout) || res.Poison {
		t.Errorf("got %+v, want %v", res, jetstream.ErrAsyncPublishTimeout)
	}
	if n, _, err := silent.Pending(); err != nil || n != 1 {
		t.Errorf("sent %d times (%v), want once", n, err)
	}
}

// While NATS is away nothing is poison, and nothing that was reported as failed
// arrives later.
func TestNothingIsSentBehindOurBack(t *testing.T) {
	t.Parallel()
	server := testkit.NATS(t)
	js := jetStream(t, connect(t, server.URL()))
	createStream(t, js, "S", "s.>", nil)
	server.Halt()
	nc := connect(t, server.URL()) // never connected yet
	p, err := NewPublisher(nc)
	if err != nil {
		t.Fatal(err)
	}
	rows := []outbox.Row{row("a", "s.a"), row("b", "s.b")}
	try := func() (acked int) {
		for _, res := range p.Publish(t.Context(), rows) {
			if res.Poison {
				t.Fatalf("poison: %v", res.Err)
			}
			if res.Err == nil {
				acked++
			}
		}
		return acked
	}
	for i, round := range []string{"before the first connection", "after a connection was lost"} {
		if n := try(); n != 0 {
			t.Errorf("%s: %d acknowledged by nobody", round, n)
		}
		failed := rows
		rows = []outbox.Row{row("c", "s.c")}
		if err := server.Start(); err != nil {
			t.Fatal(err)
		}
		testkit.Eventually(t, "publish again", 20*time.Second, func() (bool, string) { return try() == 1, "not yet" })
		awaitCount(t, js, "S", i+1)
		for _, m := range stored(t, js, "S") {
			for _, f := range failed {
				if m.Header.Get("Nats-Msg-Id") == f.MsgID.String() {
					t.Errorf("%s: %s was reported as failed and arrived later", round, m.Subject)
				}
			}
		}
		server.Halt()
		testkit.Eventually(t, "the client notices", 20*time.Second, func() (bool, string) { return !nc.IsConnected(), "" })
		rows = []outbox.Row{row("a", "s.a"), row("b", "s.b")}
	}
}

// Told to stop, a publisher sends nothing more.
func TestNothingIsSentAfterTheStop(t *testing.T) {
	t.Parallel()
	p, js, _ := publisher(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for _, res := range p.Publish(ctx, []outbox.Row{row("a", "s.a"), row("b", "s.b")}) {
		if !errors.Is(res.Err, errNotSent) || res.Poison {
			t.Errorf("got %+v, want %v", res, errNotSent)
		}
	}
	want(t, "stored", storedSubjects(t, js, "S"))
}

package bus

import (
	"fmt"
	"net/http"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/skald-saga/skald/internal/embedded"
	"github.com/skald-saga/skald/internal/outbox"
	"github.com/skald-saga/skald/internal/testkit"
)

// P10: what passes by itself, what concerns one stream only, and what will
// never pass.
func TestAnswersAreSorted(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		code    int
		api     jetstream.ErrorCode
		poison  bool
		blocked bool
	}{
		"the message is too large":              {code: 400, api: 10054, poison: true},
		"its headers are too large":             {code: 400, api: 10097, poison: true},
		"the stream is full":                    {code: 503, api: 10077, blocked: true},
		"the account is full":                   {code: 400, api: 10002, blocked: true},
		"the stream is sealed":                  {code: 400, api: 10109, blocked: true},
		"the stream counts":                     {code: 400, api: 10168, blocked: true},
		"the duplicate is still under way":      {code: 409, api: 10158},
		"too much at once":                      {code: 429, api: 10167},
		"too many batches at once":              {code: 429, api: 10210},
		"JetStream is not available":            {code: 503, api: 10008},
		"the server is short of something":      {code: 503, api: 10023},
		"the server has no room for any":        {code: 500, api: 10047},
		"somebody else leads":                   {code: 500, api: 10009},
		"something that we have never heard of": {code: 599, api: 19999},
	} {
		err := &jetstream.APIError{Code: c.code, ErrorCode: c.api, Description: name}
		if res := outcome(fmt.Errorf("wrapped: %w", err)); res.Poison != c.poison || res.Blocked != c.blocked || res.Unknown || res.Err == nil {
			t.Errorf("%s: got %+v", name, res)
		}
	}
}

// P10: a sealed stream takes nothing, and holds up only what is for it.
func TestASealedStreamHoldsUpOnlyItsOwnRows(t *testing.T) {
	t.Parallel()
	for _, method := range []Method{Async, Batch} {
		t.Run(string(method), func(t *testing.T) {
			t.Parallel()
			p, js, _ := publisher(t)
			createStream(t, js, "BAD", "bad.>", nil)
			update(t, js, "BAD", func(c *jetstream.StreamConfig) { c.Sealed = true })
			p.Method = method
			rows := []outbox.Row{row("a", "bad.1"), row("b", "bad.2"), row("c", "s.1"), row("a", "s.2"), row("d", "s.3")}
			for i, res := range p.Publish(t.Context(), rows) {
				if blocked, left := i < 2, i == 2 || i == 4; res.Blocked != blocked || res.Poison || (res.Err == nil) != left {
					t.Errorf("%s of %s: got %+v", rows[i].Subject, rows[i].Key, res)
				}
			}
		})
	}
}

// What passes by itself is not worth sending the rows one by one: the same
// batch is tried again. What does not is.
func TestABatchThatWasRefusedForAWhileIsTriedAgain(t *testing.T) {
	t.Parallel()
	for code, c := range map[int]struct {
		status int
		single bool
	}{
		10158: {status: http.StatusConflict},
		10167: {status: http.StatusTooManyRequests},
		10210: {status: http.StatusTooManyRequests},
		10008: {status: http.StatusServiceUnavailable},
		10023: {status: http.StatusServiceUnavailable},
		10174: {status: http.StatusBadRequest, single: true},
		10176: {status: http.StatusBadRequest, single: true},
		10199: {status: http.StatusBadRequest, single: true},
		10201: {status: http.StatusBadRequest, single: true},
	} {
		t.Run(strconv.Itoa(code), func(t *testing.T) {
			t.Parallel()
			nc := connect(t, testkit.NATS(t).URL())
			var singles atomic.Int32
			answer(t, connect(t, nc.ConnectedUrl()), func(m *nats.Msg) string {
				switch {
				case m.Header.Get(headerBatchCommit) != "":
					return fmt.Sprintf(`{"error": {"code": %d, "err_code": %d, "description": "no"}}`, c.status, code)
				case m.Header.Get(headerBatchID) != "":
					return ""
				}
				singles.Add(1)
				return `{"stream": "S", "seq": 1}`
			})
			p, err := NewPublisher(nc)
			if err != nil {
				t.Fatal(err)
			}
			p.Method = Batch
			p.streams.until = time.Now().Add(time.Minute)
			p.streams.known = []*stream{{name: "S", subjects: []string{"s.>"}, atomic: true, replicas: 3}}
			rows := page(12, 4, "s.x")
			for i, res := range p.Publish(t.Context(), rows) {
				if (res.Err == nil) != c.single || res.Poison || res.Blocked {
					t.Errorf("row %d: got %+v", i, res)
				}
			}
			if n := singles.Load(); (n == 12) != c.single || (n == 0) == c.single {
				t.Errorf("%d rows were sent one by one", n)
			}
		})
	}
}

// answer plays JetStream on s.>: no answer if it says nothing.
func answer(t testing.TB, nc *nats.Conn, say func(*nats.Msg) string) {
	t.Helper()
	_, err := nc.Subscribe("s.>", func(m *nats.Msg) {
		if text := say(m); text != "" {
			if err := m.Respond([]byte(text)); err != nil {
				t.Error(err)
			}
		}
	})
	if err == nil {
		err = nc.Flush()
	}
	if err != nil {
		t.Fatal(err)
	}
}

// A server that has as many batches under way as it allows takes the rows one
// by one.
func TestABatchDoesNotWaitForOthers(t *testing.T) {
	t.Parallel()
	nc := connect(t, testkit.NATSWith(t, embedded.NATSConfig{Config: `jetstream {limits {batch {max_inflight_per_stream: 1}}}`}).URL())
	js := jetStream(t, nc)
	createStream(t, js, "S", "s.>", nil)
	p, err := NewPublisher(nc)
	if err != nil {
		t.Fatal(err)
	}
	p.Method = Batch
	other := &nats.Msg{Subject: "s.other", Header: nats.Header{headerBatchID: {"other"}, headerBatchSequence: {"1"}}}
	if got, err := nc.RequestMsg(other, 10*time.Second); err != nil || len(got.Data) > 0 {
		t.Fatalf("%v %s", err, got.Data)
	}
	acked(t, p.Publish(t.Context(), page(10, 3, "s.x")))
	for i, id := range batchesOf(t, js, "S") {
		if id != "" {
			t.Errorf("message %d came as part of batch %s", i, id)
		}
	}
}

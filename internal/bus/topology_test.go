package bus

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/skald-saga/skald/internal/outbox"
	"github.com/skald-saga/skald/internal/testkit"
)

var topology = Topology{Prefix: "skald", Participants: []string{"inventory", "payment"}}

// The streams and consumers are those of the protocol: nothing that they hold
// is dropped or expires, and each participant's consumer is made for it.
func TestTopologyIsMadeAsTheProtocolSays(t *testing.T) {
	t.Parallel()
	js := jetStream(t, connect(t, testkit.NATS(t).URL()))
	var wg sync.WaitGroup
	for range 4 { // servers that start at the same time
		wg.Go(func() {
			if err := topology.Ensure(t.Context(), js); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	for stream, subject := range map[string]string{"SKALD_COMMANDS": "skald.cmd.>", "SKALD_REPLIES": "skald.reply.>"} {
		s, err := js.Stream(t.Context(), stream)
		if err != nil {
			t.Fatal(err)
		}
		c := s.CachedInfo().Config
		want(t, stream+": subjects", c.Subjects, subject)
		if c.Storage != jetstream.FileStorage || c.Retention != jetstream.WorkQueuePolicy || c.Discard != jetstream.DiscardNew ||
			c.MaxAge != 0 || c.Duplicates != 2*time.Minute || c.NoAck || c.Replicas != 1 {
			t.Errorf("%s: got %+v", stream, c)
		}
	}
	events, err := js.Stream(t.Context(), "SKALD_EVENTS")
	if err != nil {
		t.Fatal(err)
	}
	c := events.CachedInfo().Config
	want(t, "SKALD_EVENTS: subjects", c.Subjects, "skald.evt.>")
	if c.Storage != jetstream.FileStorage || c.Retention != jetstream.LimitsPolicy || c.Discard != jetstream.DiscardOld ||
		c.MaxAge != 7*24*time.Hour || c.MaxBytes != 1<<30 || c.Duplicates != 2*time.Minute || c.NoAck || c.Replicas != 1 {
		t.Errorf("SKALD_EVENTS: got %+v", c)
	}
	for _, c := range []struct{ stream, name, filter string }{
		{"SKALD_COMMANDS", "inventory", "skald.cmd.inventory.>"},
		{"SKALD_COMMANDS", "payment", "skald.cmd.payment.>"},
		{"SKALD_REPLIES", "engine", "skald.reply.>"},
	} {
		consumer, err := js.Consumer(t.Context(), c.stream, c.name)
		if err != nil {
			t.Fatal(err)
		}
		got := consumer.CachedInfo().Config
		if got.Durable != c.name || got.FilterSubject != c.filter || got.AckPolicy != jetstream.AckExplicitPolicy || got.MaxDeliver != -1 {
			t.Errorf("%s: got %+v", c.name, got)
		}
	}
	p, err := NewPublisher(connect(t, js.Conn().ConnectedUrl()))
	if err != nil {
		t.Fatal(err)
	}
	if res := p.Publish(t.Context(), []outbox.Row{row("k", "skald.cmd.inventory.reserve")}); res[0].Err != nil {
		t.Errorf("a command cannot be published: %v", res[0].Err)
	}
}

// A stream or consumer that could lose messages is refused, with what is wrong;
// whatever else is missing is made.
func TestAnUnsafeStreamIsRefused(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		change func(*jetstream.StreamConfig)
		want   string // empty: accepted
	}{
		"as it should be":                    {change: func(*jetstream.StreamConfig) {}},
		"with limits of size":                {change: func(c *jetstream.StreamConfig) { c.MaxBytes, c.MaxMsgs, c.MaxMsgSize = 1<<20, 1000, 1000 }},
		"that is full for one participant":   {change: func(c *jetstream.StreamConfig) { c.MaxMsgsPerSubject, c.DiscardNewPerSubject = 5, true }, want: "one participant that is away would hold up"},
		"in memory":                          {change: func(c *jetstream.StreamConfig) { c.Storage = jetstream.MemoryStorage }, want: "storage"},
		"that forgets what is old":           {change: func(c *jetstream.StreamConfig) { c.MaxAge = time.Hour }, want: "max age"},
		"that drops what is old":             {change: func(c *jetstream.StreamConfig) { c.Discard = jetstream.DiscardOld }, want: "discard"},
		"that drops what is old per subject": {change: func(c *jetstream.StreamConfig) { c.MaxMsgsPerSubject = 5 }, want: "per subject"},
		"that keeps what was taken":          {change: func(c *jetstream.StreamConfig) { c.Retention = jetstream.LimitsPolicy }, want: "retention"},
		"that drops what nobody waits for":   {change: func(c *jetstream.StreamConfig) { c.Retention = jetstream.InterestPolicy }, want: "retention"},
		"that acknowledges nothing":          {change: func(c *jetstream.StreamConfig) { c.NoAck = true }, want: "acknowledgements"},
		"of other subjects":                  {change: func(c *jetstream.StreamConfig) { c.Subjects = []string{"skald.cmd.inventory.>"} }, want: "skald.cmd.>"},
		"of more subjects":                   {change: func(c *jetstream.StreamConfig) { c.Subjects = append(c.Subjects, "more.>") }, want: "skald.cmd.>"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			js := jetStream(t, connect(t, testkit.NATS(t).URL()))
			createStream(t, js, "SKALD_COMMANDS", "skald.cmd.>", func(cfg *jetstream.StreamConfig) {
				cfg.AllowAtomicPublish = false // as servers before 2.12 made it
				c.change(cfg)
			})
			err := topology.Ensure(t.Context(), js)
			switch {
			case c.want == "" && err != nil:
				t.Errorf("refused: %v", err)
			case c.want != "" && (!errors.Is(err, ErrUnsafeStream) || !strings.Contains(err.Error(), "SKALD_COMMANDS") || !strings.Contains(err.Error(), c.want)):
				t.Errorf("got %v, want %v with %q", err, ErrUnsafeStream, c.want)
			}
			if _, err := js.Consumer(t.Context(), "SKALD_REPLIES", EngineConsumer); err != nil {
				t.Errorf("the other stream: %v", err)
			}
			s, err := js.Stream(t.Context(), "SKALD_COMMANDS")
			if err != nil {
				t.Fatal(err)
			}
			if got := s.CachedInfo().Config.AllowAtomicPublish; got != (c.want == "") {
				t.Errorf("takes batches: %t", got)
			}
		})
	}
}

// The events stream may keep as much as its operator likes, but it must not
// push back: the relay would wait for it.
func TestAnEventsStreamThatCouldHoldUpTheRelayIsRefused(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		change func(*jetstream.StreamConfig)
		want   string // empty: accepted
	}{
		"that keeps less":                  {change: func(c *jetstream.StreamConfig) { c.MaxAge, c.MaxMsgsPerSubject = time.Hour, 10 }},
		"in memory":                        {change: func(c *jetstream.StreamConfig) { c.Storage = jetstream.MemoryStorage }},
		"that pushes back":                 {change: func(c *jetstream.StreamConfig) { c.Discard = jetstream.DiscardNew }, want: "discard"},
		"that is a queue":                  {change: func(c *jetstream.StreamConfig) { c.Retention = jetstream.WorkQueuePolicy }, want: "retention"},
		"that acknowledges nothing":        {change: func(c *jetstream.StreamConfig) { c.NoAck = true }, want: "acknowledgements"},
		"that takes one definition's only": {change: func(c *jetstream.StreamConfig) { c.Subjects = []string{"skald.evt.order.>"} }, want: "skald.evt.>"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			js := jetStream(t, connect(t, testkit.NATS(t).URL()))
			createStream(t, js, "SKALD_EVENTS", "skald.evt.>", func(cfg *jetstream.StreamConfig) {
				cfg.Retention, cfg.Discard = jetstream.LimitsPolicy, jetstream.DiscardOld
				c.change(cfg)
			})
			err := topology.Ensure(t.Context(), js)
			switch {
			case c.want == "" && err != nil:
				t.Errorf("refused: %v", err)
			case c.want != "" && (!errors.Is(err, ErrUnsafeStream) || !strings.Contains(err.Error(), "SKALD_EVENTS") || !strings.Contains(err.Error(), c.want)):
				t.Errorf("got %v, want %v with %q", err, ErrUnsafeStream, c.want)
			}
		})
	}
}

// Likewise a consumer.
func TestAnUnsafeConsumerIsRefused(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		change func(*jetstream.ConsumerConfig)
		safe   bool
	}{
		"with other limits": {change: func(c *jetstream.ConsumerConfig) { c.AckWait, c.MaxAckPending = time.Minute, 10 }, safe: true},
		"that gives up":     {change: func(c *jetstream.ConsumerConfig) { c.MaxDeliver = 3 }},
		"of another filter": {change: func(c *jetstream.ConsumerConfig) { c.FilterSubject = "skald.cmd.payment.charge" }},
		"of one of several filters": {change: func(c *jetstream.ConsumerConfig) {
			c.FilterSubject, c.FilterSubjects = "", []string{"skald.cmd.payment.a", "skald.cmd.payment.b"}
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			js := jetStream(t, connect(t, testkit.NATS(t).URL()))
			createStream(t, js, "SKALD_COMMANDS", "skald.cmd.>", nil)
			cfg := jetstream.ConsumerConfig{Durable: "payment", FilterSubject: "skald.cmd.payment.>", AckPolicy: jetstream.AckExplicitPolicy}
			c.change(&cfg)
			if _, err := js.CreateConsumer(t.Context(), "SKALD_COMMANDS", cfg); err != nil {
				t.Fatal(err)
			}
			if err := topology.Ensure(t.Context(), js); errors.Is(err, ErrUnsafeStream) == c.safe {
				t.Errorf("got %v", err)
			}
			if _, err := js.Consumer(t.Context(), "SKALD_COMMANDS", "inventory"); err != nil {
				t.Errorf("the other consumer: %v", err)
			}
		})
	}
}

// P4: when NATS has lost everything, streams and consumers are made again.
func TestTheKeeperMakesAgainWhatNATSHasLost(t *testing.T) {
	t.Parallel()
	server := testkit.NATS(t)
	nc := connect(t, server.URL())
	js := jetStream(t, nc)
	k, err := NewKeeper(nc, topology, testkit.Log(t))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	stopped := make(chan error, 1)
	go func() { stopped <- k.Run(ctx) }()
	complete := func() {
		t.Helper()
		testkit.Eventually(t, "streams and consumers", 30*time.Second, func() (bool, string) {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			for stream, consumer := range map[string]string{"SKALD_COMMANDS": "payment", "SKALD_REPLIES": "engine"} {
				if _, err := js.Consumer(ctx, stream, consumer); err != nil {
					return false, err.Error()
				}
			}
			return true, ""
		})
	}
	complete()
	server.Halt()
	if err := server.Wipe(); err != nil {
		t.Fatal(err)
	}
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	complete()
	if err := js.DeleteConsumer(t.Context(), "SKALD_COMMANDS", "payment"); err != nil {
		t.Fatal(err)
	}
	k.Poke()
	complete()
	cancel()
	if err := <-stopped; err != nil {
		t.Error(err)
	}
}

// A definition that is stored while servers run may name participants that
// nobody has heard of.
func TestTheKeeperMakesConsumersForNewParticipants(t *testing.T) {
	t.Parallel()
	server := testkit.NATS(t)
	nc := connect(t, server.URL())
	js := jetStream(t, nc)
	k, err := NewKeeper(nc, topology, testkit.Log(t))
	if err != nil {
		t.Fatal(err)
	}
	answers := make(chan func() ([]string, error), 10)
	last := func() ([]string, error) { return nil, errors.New("the database is away") }
	k.Participants = func(context.Context) ([]string, error) {
		select {
		case last = <-answers:
		default:
		}
		return last()
	}
	ctx, cancel := context.WithCancel(t.Context())
	stopped := make(chan error, 1)
	go func() { stopped <- k.Run(ctx) }()
	has := func(name string) {
		t.Helper()
		testkit.Eventually(t, name+" has a consumer", 30*time.Second, func() (bool, string) {
			_, err := js.Consumer(t.Context(), "SKALD_COMMANDS", name)
			return err == nil, fmt.Sprint(err)
		})
	}
	has("payment") // of the topology that it was given
	answers <- func() ([]string, error) { return []string{"payment", "mail"}, nil }
	k.Poke()
	has("mail")
	cancel()
	if err := <-stopped; err != nil {
		t.Error(err)
	}
}

package bus

import (
	"testing"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/skald-saga/skald/internal/outbox"
	"github.com/skald-saga/skald/internal/testkit"
)

// P10: a subject that no stream takes, or whose stream or share of it is full,
// is told from a broker that is away; it holds up its own keys and no other.
func TestARefusedSubjectHoldsUpOnlyItsOwnKeys(t *testing.T) {
	t.Parallel()
	eachMethod(t, func(t *testing.T, p *Publisher, js jetstream.JetStream) {
		one := func(c *jetstream.StreamConfig) { c.Discard, c.MaxMsgs = jetstream.DiscardNew, 1 }
		createStream(t, js, "FULL", "full.>", one)
		createStream(t, js, "SHARE", "share.>", func(c *jetstream.StreamConfig) {
			c.Discard, c.MaxMsgsPerSubject, c.DiscardNewPerSubject = jetstream.DiscardNew, 1, true
		})
		for _, subject := range []string{"full.0", "share.a"} {
			if _, err := js.Publish(t.Context(), subject, nil); err != nil {
				t.Fatal(err)
			}
		}
		rows := []outbox.Row{
			row("none", "nobody.takes.this"), row("full", "full.1"), row("share", "share.a"),
			row("none", "s.1"), row("full", "s.2"), row("share", "s.3"), row("k", "s.4"), row("l", "share.b"), row("k", "s.5"),
		}
		results := p.Publish(t.Context(), rows)
		for i, res := range results {
			if want := i < 3; res.Blocked != want || res.Poison || (res.Err == nil) != (i >= 6) {
				t.Errorf("%s of %s: %+v", rows[i].Subject, rows[i].Key, res)
			}
		}
		if got := stored(t, js, "S"); len(got) != 2 {
			t.Errorf("%d messages of other keys arrived, want 2", len(got))
		}
	})
}

// P10: that nobody answers is not what a missing stream is: JetStream itself
// may be away, and then nothing is to be parked.
func TestABrokerWithoutJetStreamIsAway(t *testing.T) {
	t.Parallel()
	p, _, _ := publisher(t)
	away, err := jetstream.NewWithAPIPrefix(connect(t, testkit.NATS(t).URL()), "nobody.listens")
	if err != nil {
		t.Fatal(err)
	}
	p.js = away
	for _, res := range p.Publish(t.Context(), []outbox.Row{row("a", "x.a"), row("b", "x.b")}) {
		if res.Err == nil || res.Blocked {
			t.Errorf("got %+v, want a failure that is not of the subject", res)
		}
	}
}

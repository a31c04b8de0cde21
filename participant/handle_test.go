package participant

import (
	"context"
	"log/slog"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/skald-saga/skald/internal/testkit"
	"github.com/skald-saga/skald/internal/wire"
)

// delivery is a message on its n-th delivery that notes what becomes of it.
type delivery struct {
	jetstream.Msg
	n    uint64
	fate string
}

func (d *delivery) Subject() string { return "skald.cmd.works.do" }
func (d *delivery) Data() []byte    { return nil }
func (d *delivery) Headers() nats.Header {
	return nats.Header{
		wire.HeaderEffectID: {"0198c5a0-0000-7000-8000-000000000000/s/action"},
		wire.HeaderReplyTo:  {"nobody.listens"},
	}
}
func (d *delivery) Metadata() (*jetstream.MsgMetadata, error) {
	return &jetstream.MsgMetadata{NumDelivered: d.n}, nil
}
func (d *delivery) NakWithDelay(time.Duration) error { d.fate += "again"; return nil }
func (d *delivery) TermWithReason(string) error      { d.fate += "gone"; return nil }
func (d *delivery) Ack() error                       { d.fate += "acknowledged"; return nil }

// P10: a command whose reply nobody takes does not come back for ever.
func TestACommandThatCannotBeAnsweredGoesAwayInTheEnd(t *testing.T) {
	t.Parallel()
	nc, err := nats.Connect(testkit.NATS(t).URL())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	p, err := New(Config{Service: "works", NATS: nc, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	p.Stateless("do", func(context.Context, Command) (any, error) { return nil, nil })
	w := worker{Participant: p, js: js}
	for _, tc := range []struct {
		n    uint64
		fate string
	}{{1, "again"}, {maxAnswers - 1, "again"}, {maxAnswers, "gone"}} {
		d := &delivery{n: tc.n}
		w.handle(t.Context(), d)
		if d.fate != tc.fate {
			t.Errorf("delivery %d: got %q, want %q", tc.n, d.fate, tc.fate)
		}
	}
}

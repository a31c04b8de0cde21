package participant_test

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/nats-io/nats.go"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/skald-saga/skald/internal/testkit"
	"github.com/skald-saga/skald/internal/wire"
	"github.com/skald-saga/skald/participant"
)

// counter reads one of the participant's counters.
func counter(t *testing.T, reg *prometheus.Registry, name, outcome string) float64 {
	t.Helper()
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() != name {
			continue
		}
		for _, m := range f.GetMetric() {
			for _, l := range m.GetLabel() {
				if outcome == "" || l.GetName() == "outcome" && l.GetValue() == outcome {
					return m.GetCounter().GetValue()
				}
			}
		}
	}
	return 0
}

// P10: a command that nobody can read is thrown away with a log line and
// counted; it does not come back, and others are not kept waiting.
func TestAnUnreadableCommandGoesAway(t *testing.T) {
	t.Parallel()
	w := open(t)
	reg := prometheus.NewRegistry()
	n := w.works(participant.Config{Registerer: reg})
	good := message(t, w.step().action())
	spoil := map[string]func(*nats.Msg){
		"no headers at all":              func(m *nats.Msg) { m.Header = nil },
		"no effect id":                   func(m *nats.Msg) { m.Header.Del(wire.HeaderEffectID) },
		"an effect id of something else": func(m *nats.Msg) { m.Header[wire.HeaderEffectID] = []string{"order-7"} },
		"nowhere to reply to":            func(m *nats.Msg) { m.Header.Del(wire.HeaderReplyTo) },
		"an attempt that is no number":   func(m *nats.Msg) { m.Header[wire.HeaderAttempt] = []string{"first"} },
		"a time that is none":            func(m *nats.Msg) { m.Header[wire.HeaderNotAfter] = []string{"soon"} },
		"a compensation of nothing": func(m *nats.Msg) {
			m.Header[wire.HeaderEffectID] = []string{"0198c5a0-0000-7000-8000-000000000000/s/compensation"}
		},
		"an action that undoes something": func(m *nats.Msg) { m.Header[wire.HeaderCompensates] = m.Header[wire.HeaderEffectID] },
		"a payload that is no text":       func(m *nats.Msg) { m.Data = []byte{0xff} },
	}
	for name, f := range spoil {
		m := &nats.Msg{Subject: good.Subject, Header: nats.Header{}, Data: good.Data}
		for k, v := range good.Header {
			m.Header[k] = v
		}
		m.Header[wire.HeaderMsgID] = []string{name}
		f(m)
		if _, err := w.js.PublishMsg(t.Context(), m); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
	}
	w.awaitAcknowledged()
	want(t, "counted", counter(t, reg, "participant_commands_total", "unreadable"), float64(len(spoil)))
	want(t, "calls", n.do.Load()+n.undo.Load(), 0)
	want(t, "a good one", text(w.send(w.step().action())), "succeeded 1")
}

// A command for the wrong handler is not executed and not refused: the
// participant may be an old version.
func TestACommandForTheWrongHandlerIsTriedAgain(t *testing.T) {
	t.Parallel()
	w := open(t)
	n := w.works(participant.Config{})
	s := w.step()
	to := func(operation string) func(*wire.Command) {
		return func(c *wire.Command) { c.Subject = wire.CommandSubject("skald", service, operation) }
	}
	want(t, "unknown", text(w.send(s.action(to("dance")))), "retry unknown_operation")
	want(t, "action", text(w.send(s.action(to("undo")))), "retry wrong_phase")
	want(t, "compensation", text(w.send(s.compensation(wire.Succeeded, to("do")))), "retry wrong_phase")
	want(t, "calls", n.do.Load()+n.undo.Load(), 0)
	want(t, "inbox", s.inbox(wire.Action)+s.inbox(wire.Compensation), "")
}

func TestAPanicIsCountedAndHarmsNobodyElse(t *testing.T) {
	t.Parallel()
	w := open(t)
	reg := prometheus.NewRegistry()
	n := &calls{}
	n.fail = func(string) error {
		if n.do.Load() == 1 {
			panic("at the first")
		}
		return nil
	}
	w.run(participant.Config{Registerer: reg}, n.register)
	want(t, "reply", text(w.send(w.step().action())), "retry panic")
	want(t, "counted", counter(t, reg, "participant_handler_panics_total", ""), 1)
	want(t, "another", text(w.send(w.step().action())), "succeeded 2")
	want(t, "connections in use", w.pool.Stat().AcquiredConns(), 0)
}

// P5: the command is acknowledged only when JetStream has the reply. A process
// that ends in between leaves the command, and the next one finds the reply in
// the inbox.
func TestAReplyThatWasNotTakenIsSentAgain(t *testing.T) {
	t.Parallel()
	w := open(t)
	if err := w.js.DeleteStream(t.Context(), "SKALD_REPLIES"); err != nil {
		t.Fatal(err)
	}
	n := &calls{}
	stop := w.run(participant.Config{}, n.register)
	s := w.step()
	c := s.action()
	reply := w.post(c)
	testkit.Eventually(t, "the effect has happened", 10*time.Second, func() (bool, string) {
		status := s.inbox(wire.Action)
		return status == "succeeded", status
	})
	stop()
	want(t, "commands in the stream", w.pending(), 1)

	w.ensure(30 * time.Second)
	w.run(participant.Config{}, n.register)
	want(t, "reply", text(w.await(c, reply)), "succeeded 1")
	w.awaitAcknowledged()
	want(t, "calls", n.do.Load(), 1)
	want(t, "effects", s.rows(), "1/0")
}

// P5: JetStream delivers a command again while a long handler is at work on
// it: the saga hears that work goes on, and there is one effect.
func TestALongHandlerIsReportedInProgress(t *testing.T) {
	t.Parallel()
	w := open(t)
	w.ensure(200 * time.Millisecond)
	leave := make(chan bool)
	n := &calls{fail: func(string) error { <-leave; return nil }}
	w.run(participant.Config{}, n.register)
	release := w.opener(leave)
	s := w.step()
	c := s.action()
	reply := w.post(c)
	want(t, "first reply", text(w.await(c, reply)), "in_progress")
	release()
	want(t, "second reply", text(w.await(c, reply)), "succeeded 1")
	want(t, "effects", s.rows(), "1/0")
}

// Whoever is told to stop finishes what has begun, begins nothing new, and
// gives the rest back at once: no command waits for its redelivery time.
func TestStoppingFinishesWhatHasBegunAndGivesBackTheRest(t *testing.T) {
	t.Parallel()
	w := open(t) // redelivery after 30 s
	entered, leave := make(chan bool, 100), make(chan bool)
	slow := &calls{fail: func(string) error { entered <- true; <-leave; return nil }}
	stop := w.run(participant.Config{Concurrency: 2}, slow.register)
	release := w.opener(leave)
	var commands []wire.Command
	var replies []<-chan wire.Reply
	for range 12 {
		c := w.step().action()
		commands, replies = append(commands, c), append(replies, w.post(c))
	}
	<-entered
	<-entered
	stopped := make(chan bool)
	go func() { stop(); close(stopped) }()

	// The other instance gets the rest while the first is still finishing.
	quick := w.works(participant.Config{})
	testkit.Eventually(t, "the other instance has done the rest", 20*time.Second, func() (bool, string) {
		n := quick.do.Load()
		return n == 10, fmt.Sprint(n, " of 10")
	})
	select {
	case <-stopped:
		t.Error("Run returned while handlers were at work")
	default:
	}
	release()
	<-stopped
	for i, c := range commands {
		if r := w.await(c, replies[i]); r.Outcome != wire.Succeeded {
			t.Errorf("command %d: %s", i, text(r))
		}
	}
	want(t, "done by the first", slow.do.Load(), 2)
	want(t, "done by the other", quick.do.Load(), 10)
	w.awaitAcknowledged()
}

// Nobody waits for ever: past DrainTimeout a handler is cut short, its writes
// are taken back, no attempt is spent, and the command is given back.
func TestAHandlerThatTakesTooLongToStopIsCutShort(t *testing.T) {
	t.Parallel()
	w := open(t)
	entered := make(chan bool, 1)
	stop := w.run(participant.Config{DrainTimeout: 10 * time.Millisecond}, func(p *participant.Participant) {
		p.Step("do", "", participant.Handlers{Do: func(ctx context.Context, tx pgx.Tx, c participant.Command) (any, error) {
			if _, err := tx.Exec(ctx, `INSERT INTO effects VALUES ($1, 'do')`, c.EffectID); err != nil {
				return nil, err
			}
			entered <- true
			<-ctx.Done()
			return nil, ctx.Err()
		}})
	})
	s := w.step()
	c := s.action()
	reply := w.post(c)
	<-entered
	stop()
	want(t, "effects", s.rows(), "0/0")
	n := w.works(participant.Config{})
	want(t, "the only reply", text(w.await(c, reply)), "succeeded 1")
	want(t, "calls", n.do.Load(), 1)
	want(t, "effects", s.rows(), "1/0")
}

// P4: NATS loses everything. When Skald has made the streams again, the
// participant works again, and still knows what it did.
func TestTheParticipantSurvivesTheLossOfNATS(t *testing.T) {
	t.Parallel()
	w := open(t)
	n := w.works(participant.Config{})
	s := w.step()
	want(t, "before", text(w.send(s.action())), "succeeded 1")

	w.nats.Halt()
	if err := w.nats.Wipe(); err != nil {
		t.Fatal(err)
	}
	if err := w.nats.Start(); err != nil {
		t.Fatal(err)
	}
	testkit.Eventually(t, "connected again", 10*time.Second, func() (bool, string) { return w.nc.IsConnected(), w.nc.Status().String() })
	w.ensure(30 * time.Second)
	want(t, "the same effect", text(w.send(s.action())), "succeeded 1")
	want(t, "another effect", text(w.send(w.step().action())), "succeeded 2")
	want(t, "calls", n.do.Load(), 2)
}

// P4: the same if only its consumer is gone.
func TestTheParticipantSurvivesTheLossOfItsConsumer(t *testing.T) {
	t.Parallel()
	w := open(t)
	w.works(participant.Config{})
	want(t, "before", text(w.send(w.step().action())), "succeeded 1")
	if err := w.js.DeleteConsumer(t.Context(), "SKALD_COMMANDS", service); err != nil {
		t.Fatal(err)
	}
	c := w.step().action()
	reply := w.post(c)
	w.ensure(30 * time.Second)
	want(t, "after", text(w.await(c, reply)), "succeeded 2")
}

// P4: likewise when the server refuses a request, and the client gives up.
func TestTheParticipantGoesOnWhenTheClientGivesUp(t *testing.T) {
	t.Parallel()
	w := open(t)
	requests, err := w.nc.SubscribeSync("$JS.API.CONSUMER.MSG.NEXT.SKALD_COMMANDS." + service)
	if err != nil {
		t.Fatal(err)
	}
	w.works(participant.Config{})
	want(t, "before", text(w.send(w.step().action())), "succeeded 1")
	request, err := requests.NextMsg(20 * time.Second)
	if err != nil {
		t.Fatal(err)
	}
	refusal := &nats.Msg{Subject: request.Reply, Header: nats.Header{"Status": {"400"}, "Description": {"Bad Request"}}}
	if err := w.nc.PublishMsg(refusal); err != nil {
		t.Fatal(err)
	}
	for again := false; !again; { // another request with another inbox is another consume
		next, err := requests.NextMsg(20 * time.Second)
		if err != nil {
			t.Fatalf("nothing more was asked for: %v", err)
		}
		again = next.Reply != request.Reply
	}
	want(t, "after", text(w.send(w.step().action())), "succeeded 2")
}

// The participant may be started before Skald has made its consumer.
func TestTheParticipantWaitsForItsConsumer(t *testing.T) {
	t.Parallel()
	w := open(t)
	if err := w.js.DeleteStream(t.Context(), "SKALD_COMMANDS"); err != nil {
		t.Fatal(err)
	}
	w.works(participant.Config{})
	w.ensure(30 * time.Second)
	want(t, "reply", text(w.send(w.step().action())), "succeeded 1")
}

func TestStatelessOperationsNeedNoDatabase(t *testing.T) {
	t.Parallel()
	w := open(t)
	var n atomic.Int32
	p, err := participant.New(participant.Config{Service: service, NATS: w.connect()})
	if err != nil {
		t.Fatal(err)
	}
	p.Stateless("do", func(context.Context, participant.Command) (any, error) { return n.Add(1), nil })
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- p.Run(ctx) }()
	s := w.step()
	want(t, "first", text(w.send(s.action())), "succeeded 1")
	want(t, "second, not remembered", text(w.send(s.action())), "succeeded 2")
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

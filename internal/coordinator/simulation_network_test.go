package coordinator

import (
	"encoding/json"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/skald-saga/skald/internal/outbox"
	"github.com/skald-saga/skald/internal/saga"
	"github.com/skald-saga/skald/internal/simulation"
	"github.com/skald-saga/skald/internal/wire"
)

// simMessage is a row of the outbox.
type simMessage struct {
	outbox.Message
	saga      uuid.UUID
	command   bool // not an event
	cmd       wire.Command
	published int
}

// simNATS is the broker and the network: what is in it may come at any time, in
// any order, any number of times, or never.
type simNATS struct {
	w        *world
	down     bool
	full     map[string]bool // participants whose commands it does not take
	commands []*delivery
	replies  []*delivery
	known    map[any]bool // the duplicate window
}

// delivery is a message in a stream.
type delivery struct {
	msg    *simMessage
	reply  wire.Reply
	holder *task // it has been delivered, and is not acknowledged
}

func (n *simNATS) blocked(m *simMessage) bool {
	return m.command && n.full[strings.Split(m.Subject, ".")[2]]
}

// publish reports whether the broker has acknowledged the message.
func (n *simNATS) publish(m *simMessage) bool {
	if n.down {
		return false
	}
	m.published++
	var key any = m.MsgID
	if n.w.plant == duplicateWindowByEffect {
		key = m.cmd.EffectID
	}
	if m.command && (!n.known[key] || n.w.chance(n.w.duplicates)) {
		n.commands = append(n.commands, &delivery{msg: m})
	}
	n.known[key] = true
	return !n.w.chance(n.w.losses) // the acknowledgement
}

func (n *simNATS) wipe() {
	n.commands, n.replies = nil, nil
	clear(n.known)
}

// fetch takes replies out at random, for a task that must acknowledge them.
func (n *simNATS) fetch(t *task, most int) []*delivery {
	var batch []*delivery
	for range most {
		free := slices.DeleteFunc(slices.Clone(n.replies), func(d *delivery) bool { return d.holder != nil })
		if len(free) == 0 {
			break
		}
		d := free[n.w.IntN(len(free))]
		d.holder = t
		batch = append(batch, d)
	}
	return batch
}

// acknowledge takes replies out; some come again all the same.
func (n *simNATS) acknowledge(batch []*delivery) {
	n.replies = slices.DeleteFunc(n.replies, func(d *delivery) bool {
		return slices.Contains(batch, d) && !n.w.chance(n.w.duplicates)
	})
}

// giveBack offers again what a task has not acknowledged.
func (n *simNATS) giveBack(t *task) {
	for _, d := range n.replies {
		if d.holder == t {
			d.holder = nil
		}
	}
}

// relay publishes a page and moves the position, as outbox.Relay does: by
// compare-and-set, so that two of them do no harm.
func (w *world) relay(most int) {
	db := w.db
	from := db.settled
	page := db.outbox[from:min(from+most, len(db.outbox))]
	if w.plant == earlySettling {
		db.settled += len(page)
	}
	var aside []*simMessage
	done := 0
	for _, m := range page {
		w.step()
		behind := func(p *simMessage) bool { return p.saga == m.saga }
		if w.nats.blocked(m) || slices.ContainsFunc(aside, behind) || slices.ContainsFunc(db.parked, behind) {
			aside = append(aside, m)
		} else if !w.nats.publish(m) {
			break
		}
		done++
	}
	w.step()
	if db.settled == from {
		db.settled += done
		db.parked = append(db.parked, aside...)
		w.logf("relay: %d published, %d parked", done-len(aside), len(aside))
	}
}

// unpark publishes what was set aside, in the order of each saga.
func (w *world) unpark() {
	stays := map[uuid.UUID]bool{}
	for _, m := range slices.Clone(w.db.parked) {
		w.step()
		if stays[m.saga] || w.nats.blocked(m) || !w.nats.publish(m) {
			stays[m.saga] = true
			continue
		}
		w.step()
		w.db.parked = slices.DeleteFunc(w.db.parked, func(p *simMessage) bool { return p == m })
	}
}

// deliver hands a command to its participant, which may die after each of its
// steps: before its transaction, before the reply, before the acknowledgement.
func (w *world) deliver(d *delivery) {
	if w.chance(w.losses) {
		return
	}
	reply := w.execute(d.msg)
	if w.chance(w.losses) {
		return
	}
	if d.msg.cmd.ReplyTo != "" {
		w.nats.replies = append(w.nats.replies, &delivery{reply: reply})
	}
	if !w.chance(w.duplicates) {
		w.nats.commands = slices.DeleteFunc(w.nats.commands, func(o *delivery) bool { return o == d })
	}
}

// execute is the participant's transaction.
func (w *world) execute(m *simMessage) wire.Reply {
	st, c := w.db.sagas[m.saga], m.cmd
	i := st.def.Index(c.EffectID.Step)
	effect := simulation.Effect{Saga: c.Saga, Step: c.EffectID.Step, Phase: saga.Phase(c.EffectID.Phase), Generation: c.EffectID.Generation}
	cmd := simulation.Command{Effect: effect, Action: saga.Outcome(c.ActionOutcome), NoAction: st.def.Steps[i].Action == ""}
	if c.Compensates != nil {
		cmd.Compensates = c.Compensates.Generation
	}
	before := w.participants.There(c.Saga, c.EffectID.Step)
	outcome, err := w.participants.Execute(cmd, func() saga.Outcome { return w.decide(c) })
	if err != nil {
		w.failf("P5", "saga %s: %v", st.name(), err)
	}
	if after := w.participants.There(c.Saga, c.EffectID.Step); after < before {
		w.checkOrder(st, i)
	}
	w.logf("participant: %s of saga %s, attempt %d: %s", strings.Join(strings.Split(c.EffectID.String(), "/")[1:], "/"), st.name(), c.Attempt, outcome)
	r := wire.Reply{EffectID: c.EffectID, Attempt: c.Attempt, Outcome: wire.Outcome(outcome)}
	if w.chance(w.odd) {
		r.Attempt = 0 // it need not be said
	}
	switch outcome {
	case saga.Succeeded:
		r.Body = json.RawMessage(`{"id":"` + c.EffectID.Step + `"}`)
		if w.poisonous && effect.Phase == saga.Action && st.def.Steps[i].Kind == saga.Compensatable && effect.Step == "b" {
			r.Body = json.RawMessage(`"poison"`)
		}
	case saga.Retry:
		r.RetryAfter = time.Duration(w.IntN(3)) * time.Second
	case saga.InProgress:
		r.Extend = time.Duration(w.IntN(20)) * time.Second
	}
	w.said[statement{c.Saga, effect.Step, effect.Phase, outcome, r.Attempt}] = true
	return r
}

// decide is how an effect turns out that has not been decided.
func (w *world) decide(c wire.Command) saga.Outcome {
	if !c.NotAfter.IsZero() && w.now.After(c.NotAfter) {
		return saga.Retry // expired, and not remembered
	}
	if w.chance(w.refusals) {
		return []saga.Outcome{saga.Failed, saga.Failed, saga.Retry, saga.InProgress}[w.IntN(4)]
	}
	return saga.Succeeded
}

// read understands a command as its participant will.
func (w *world) read(st *simSaga, m *simMessage) {
	var flat map[string]string
	if err := json.Unmarshal(m.Headers, &flat); err != nil {
		w.failf("P5", "headers %s: %v", m.Headers, err)
	}
	headers := make(map[string][]string, len(flat))
	for k, v := range flat {
		headers[k] = []string{v}
	}
	var err error
	if m.cmd, err = wire.DecodeCommand(m.Subject, headers, m.Payload); err != nil {
		w.failf("P5", "headers %s: %v", m.Headers, err)
	}
	w.checkCommand(st, m)
}

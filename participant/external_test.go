package participant_test

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"github.com/skald-saga/skald/internal/wire"
	"github.com/skald-saga/skald/participant"
)

// elsewhere registers "do" and "undo" with effects outside of the database.
// The functions see the number of their call and may be nil.
func (w *world) elsewhere(cfg participant.Config, do, undo func(ctx context.Context, call int32) error) (n *calls, stop func()) {
	n = &calls{}
	handler := func(count *atomic.Int32, f func(context.Context, int32) error) func(context.Context, participant.Command) (any, error) {
		return func(ctx context.Context, _ participant.Command) (any, error) {
			call := count.Add(1)
			if f == nil {
				return call, nil
			}
			return call, f(ctx, call)
		}
	}
	stop = w.run(cfg, func(p *participant.Participant) {
		p.External("do", "undo", participant.External{Do: handler(&n.do, do), Undo: handler(&n.undo, undo)})
	})
	return n, stop
}

// P5: the rules of the inbox hold for effects elsewhere, too.
func TestAnExternalEffectHappensAndIsUndoneOnce(t *testing.T) {
	t.Parallel()
	w := open(t)
	n, _ := w.elsewhere(participant.Config{}, nil, nil)
	s := w.step()
	for range 2 {
		want(t, "action", text(w.send(s.action())), "succeeded 1")
	}
	for range 2 {
		want(t, "compensation", text(w.send(s.compensation(wire.Succeeded))), "succeeded 1")
	}
	want(t, "late action", text(w.send(s.action())), "failed compensated")
	want(t, "calls", n.do.Load(), 1)
	want(t, "calls to undo", n.undo.Load(), 1)
}

// P5: before an external effect is begun, a compensation prevents it.
func TestAnExternalActionAfterItsCompensationIsRefused(t *testing.T) {
	t.Parallel()
	w := open(t)
	n, _ := w.elsewhere(participant.Config{}, nil, nil)
	s := w.step()
	want(t, "compensation", text(w.send(s.compensation(wire.Unknown))), "succeeded null")
	want(t, "late action", text(w.send(s.action())), "failed compensated")
	want(t, "compensation again", text(w.send(s.compensation(wire.Unknown))), "succeeded null")
	want(t, "calls", n.do.Load()+n.undo.Load(), 0)
}

func TestAnExternalRefusalIsRememberedAndNotUndone(t *testing.T) {
	t.Parallel()
	w := open(t)
	n, _ := w.elsewhere(participant.Config{}, func(context.Context, int32) error { return participant.Refuse("declined", "") }, nil)
	s := w.step()
	for range 2 {
		want(t, "action", text(w.send(s.action())), "failed declined")
	}
	want(t, "compensation", text(w.send(s.compensation(wire.Unknown))), "succeeded null")
	want(t, "calls", n.do.Load(), 1)
	want(t, "calls to undo", n.undo.Load(), 0)
}

// P5: after a transient error nobody knows whether it happened; the target is
// asked again under the same key, and its answer counts.
func TestAnExternalActionIsAskedAgainAfterATransientError(t *testing.T) {
	t.Parallel()
	w := open(t)
	n, _ := w.elsewhere(participant.Config{}, func(_ context.Context, call int32) error {
		if call == 1 {
			return errors.New("connection reset")
		}
		return nil
	}, nil)
	s := w.step()
	want(t, "first", text(w.send(s.action())), "retry transient")
	want(t, "inbox", s.inbox(wire.Action), "started")
	want(t, "second", text(w.send(s.action())), "succeeded 2")
	want(t, "third", text(w.send(s.action())), "succeeded 2")
	want(t, "calls", n.do.Load(), 2)
}

// P5: in one process the target is not asked twice at the same time.
func TestAnExternalDuplicateDuringTheWorkIsAnsweredInProgress(t *testing.T) {
	t.Parallel()
	w := open(t)
	entered, leave := make(chan bool, 8), make(chan bool)
	n, _ := w.elsewhere(participant.Config{}, func(context.Context, int32) error { entered <- true; <-leave; return nil }, nil)
	s := w.step()
	c := s.action()
	first := w.post(c)
	<-entered
	release := w.opener(leave)
	want(t, "reply to the duplicate", text(w.send(s.action())), "in_progress")
	want(t, "calls", n.do.Load(), 1)
	release()
	want(t, "reply to the first", text(w.await(c, first)), "succeeded 1")
}

// P5: a process that ends between the start and the result leaves an effect
// that may have happened. Its compensation is real, never null.
func TestWhatWasStartedIsUndoneForReal(t *testing.T) {
	t.Parallel()
	w := open(t)
	entered := make(chan bool, 1)
	hang := func(ctx context.Context, _ int32) error { entered <- true; <-ctx.Done(); return ctx.Err() }
	hasty := participant.Config{DrainTimeout: time.Millisecond}
	_, stop := w.elsewhere(hasty, hang, nil)
	s := w.step()
	c := s.action()
	reply := w.post(c)
	<-entered
	stop() // it does not wait for the handler
	want(t, "inbox", s.inbox(wire.Action), "started")
	select {
	case r := <-reply:
		t.Errorf("an interrupted handler was answered for: %s", text(r))
	default:
	}

	n, _ := w.elsewhere(hasty, hang, nil)
	<-entered // the command was given back, and is tried again
	want(t, "compensation", text(w.send(s.compensation(wire.Unknown))), "succeeded 1")
	want(t, "calls to undo", n.undo.Load(), 1)
}

// P5: once a compensation has begun, a success of the action cannot be
// recorded any more, even if it comes back later.
func TestAnExternalCompensationDuringTheActionWins(t *testing.T) {
	t.Parallel()
	w := open(t)
	entered, leave := make(chan bool, 1), make(chan bool)
	n, _ := w.elsewhere(participant.Config{}, func(context.Context, int32) error { entered <- true; <-leave; return nil }, nil)
	s := w.step()
	c := s.action()
	reply := w.post(c)
	<-entered
	release := w.opener(leave)
	want(t, "compensation", text(w.send(s.compensation(wire.Unknown))), "succeeded 1")
	release()
	want(t, "action", text(w.await(c, reply)), "failed compensated")
	want(t, "inbox", s.inbox(wire.Action), "undoing")
	want(t, "calls to undo", n.undo.Load(), 1)
}

// P5: also a compensation that has only begun keeps the action from being
// tried again, and goes on until it is done.
func TestAnExternalCompensationIsTriedUntilItWorks(t *testing.T) {
	t.Parallel()
	for name, err := range map[string]error{
		"an error":             errors.New("connection reset"),
		"an error with a wish": participant.RetryAfter(3*time.Second, errors.New("busy")),
		"a refusal":            participant.Refuse("never", "no way"),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := open(t)
			n, _ := w.elsewhere(participant.Config{},
				func(context.Context, int32) error { return errors.New("no answer") },
				func(_ context.Context, call int32) error {
					if call == 1 {
						return err
					}
					return nil
				})
			s := w.step()
			w.send(s.action())
			r := w.send(s.compensation(wire.Unknown))
			want(t, "first", text(r), "retry transient")
			if name == "an error with a wish" {
				want(t, "wish", r.RetryAfter, 3*time.Second)
			}
			want(t, "late action", text(w.send(s.action())), "failed compensated")
			want(t, "second", text(w.send(s.compensation(wire.Unknown))), "succeeded 2")
			want(t, "third", text(w.send(s.compensation(wire.Unknown))), "succeeded 2")
			want(t, "calls", n.do.Load(), 1)
			want(t, "calls to undo", n.undo.Load(), 2)
		})
	}
}

// P5: what the target answered counts even if the handler used up its time.
func TestAnExternalResultIsRecordedAfterTheHandlersTime(t *testing.T) {
	t.Parallel()
	w := open(t)
	n, _ := w.elsewhere(participant.Config{HandlerTimeout: 50 * time.Millisecond},
		func(ctx context.Context, _ int32) error { <-ctx.Done(); return nil }, nil)
	s := w.step()
	want(t, "reply", text(w.send(s.action())), "succeeded 1")
	want(t, "again", text(w.send(s.action())), "succeeded 1")
	want(t, "calls", n.do.Load(), 1)
}

// P5: an external success that the inbox forgot is undone.
func TestAForgottenExternalSuccessIsUndone(t *testing.T) {
	t.Parallel()
	w := open(t)
	n, _ := w.elsewhere(participant.Config{}, nil, nil)
	s := w.step()
	want(t, "compensation", text(w.send(s.compensation(wire.Succeeded))), "succeeded 1")
	want(t, "late action", text(w.send(s.action())), "failed compensated")
	want(t, "calls", n.do.Load(), 0)
}

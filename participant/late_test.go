package participant_test

import (
	"context"
	"testing"
	"time"

	"github.com/skald-saga/skald/internal/testkit"
	"github.com/skald-saga/skald/internal/wire"
	"github.com/skald-saga/skald/participant"
)

func notAfter(d time.Duration) func(*wire.Command) {
	return func(c *wire.Command) { c.NotAfter = time.Now().Add(d) }
}

func issued(ago time.Duration) func(*wire.Command) {
	return func(c *wire.Command) { c.EffectTime = time.Now().Add(-ago) }
}

// P5: a command that comes too late is not executed, and this is not stored: a
// clock that goes wrong must not decide about an effect for good. What has
// been answered before is answered again at any time.
func TestACommandThatComesTooLateIsNotExecuted(t *testing.T) {
	t.Parallel()
	for name, register := range map[string]func(*world) *calls{
		"a step": func(w *world) *calls { return w.works(participant.Config{InboxRetention: time.Hour}) },
		"an external effect": func(w *world) *calls {
			n, _ := w.elsewhere(participant.Config{InboxRetention: time.Hour}, nil, nil)
			return n
		},
		"a bulk step": func(w *world) *calls {
			m := &many{}
			w.run(participant.Config{InboxRetention: time.Hour}, m.register)
			return &m.calls
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := open(t)
			n := register(w)
			s := w.step()
			want(t, "past ce-notafter", text(w.send(s.action(notAfter(-time.Second)))), "retry expired")
			want(t, "past the retention", text(w.send(s.action(issued(2*time.Hour)))), "retry expired")
			want(t, "a compensation past the retention", text(w.send(s.compensation(wire.Succeeded, issued(2*time.Hour)))), "retry expired")
			want(t, "inbox", s.inbox(wire.Action)+s.inbox(wire.Compensation), "")
			want(t, "calls", n.do.Load()+n.undo.Load(), 0)

			want(t, "in time", text(w.send(s.action(notAfter(time.Hour)))), "succeeded 1")
			want(t, "stored, past ce-notafter", text(w.send(s.action(notAfter(-time.Second)))), "succeeded 1")
			want(t, "stored, past the retention", text(w.send(s.action(issued(2*time.Hour)))), "succeeded 1")
			want(t, "calls", n.do.Load(), 1)
		})
	}
}

// P5, P12: the inbox forgets only what it would refuse to do again, and it
// forgets all of that.
func TestTheInboxForgetsWhatIsOlderThanItsRetention(t *testing.T) {
	t.Parallel()
	w := open(t)
	const q = `
		INSERT INTO skald_inbox (service, effect_id, status, created_at)
		SELECT $1, 'effect ' || n || $2, 'succeeded', now() - $3::interval FROM generate_series(1, $4) n`
	for _, row := range []struct {
		service, name string
		age           time.Duration
		count         int
	}{
		{service, "old", 26 * time.Hour, 2500}, {service, "young", 23 * time.Hour, 7}, {"others", "old", 26 * time.Hour, 5},
	} {
		if _, err := w.pool.Exec(t.Context(), q, row.service, row.name, row.age, row.count); err != nil {
			t.Fatal(err)
		}
	}
	w.works(participant.Config{InboxRetention: time.Hour})
	testkit.Eventually(t, "old effects are forgotten", 10*time.Second, func() (bool, string) {
		var left string
		const q = `SELECT string_agg(service || ' ' || count, ', ' ORDER BY service) FROM (SELECT service, count(*) FROM skald_inbox GROUP BY 1) x`
		err := w.pool.QueryRow(context.Background(), q).Scan(&left)
		return err == nil && left == "others 5, works 7", left
	})
}

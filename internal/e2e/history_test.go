package e2e

import (
	"cmp"
	"fmt"
	"slices"
	"testing"
	"time"
)

// history is what happened: the log of commits as Postgres kept it, what came
// into the stream, what participants did, and how the relay's books stood
// meanwhile. check compares them.
type history struct {
	committed []committed
	stored    []stored // in the order in which the stream took them
	dead      map[string]bool
	effects   map[string]int // how often each happened
	lanes     []laneSample   // in the order in which they were taken
	passed    map[string]time.Time
	gone      map[string]time.Time
	wipes     []time.Time // when the broker forgot everything
	retain    time.Duration
}

// committed is a message whose transaction was committed. The versions of a
// key count its commits.
type committed struct {
	msgID, key string
	version    int
	effect     string // what it asks for; two may ask for the same
	poison     bool   // no broker takes it
	at         time.Time
}

// stored is a message as the stream took it.
type stored struct {
	msgID, key string
	version    int
	at         time.Time
	generation int // how often the broker had forgotten everything
}

// laneSample is how a lane's row stood. A position may go back only if somebody
// rewound it or Postgres forgot it in a crash: that begins an odd era, in which
// nobody looks, and its end an even one.
type laneSample struct {
	lane, era int
	xmax, pos int64
	owner     string
	epoch     int64
	at        time.Time
}

// clocks may differ by this much: the stream's times are those of its server.
const clocks = 100 * time.Millisecond

// check returns what must not have happened. The numbers are those of the
// invariants in docs/faults.md.
func (h *history) check() []string {
	rows := map[string]committed{}
	for _, c := range h.committed {
		rows[c.msgID] = c
	}
	first := firsts(h.stored)
	return slices.Concat(h.lost(first), phantoms(h.stored, rows), h.reordered(rows), h.effectsOnce(), h.positions(), h.settledTooEarly(first, rows), h.goneTooEarly(first))
}

// lost: I1, every committed message is published or a dead letter.
func (h *history) lost(first map[string]stored) (wrong []string) {
	for _, c := range h.committed {
		switch _, published := first[c.msgID]; {
		case c.poison && !h.dead[c.msgID]:
			wrong = append(wrong, fmt.Sprintf("I1 lost: poison %s of %s is no dead letter", c.msgID, c.key))
		case !c.poison && !published:
			wrong = append(wrong, fmt.Sprintf("I1 lost: %s, version %d of %s", c.msgID, c.version, c.key))
		case !c.poison && h.dead[c.msgID]:
			wrong = append(wrong, fmt.Sprintf("I1 dead: %s, version %d of %s, is a dead letter for no reason", c.msgID, c.version, c.key))
		}
	}
	return wrong
}

// phantoms: I2 and I3, nothing is published that was not committed, or that a
// crash took back; I7, what is published is what one row says.
func phantoms(published []stored, rows map[string]committed) (wrong []string) {
	for _, s := range published {
		switch c, ok := rows[s.msgID]; {
		case !ok:
			wrong = append(wrong, fmt.Sprintf("I2 phantom: %s, version %d of %s", s.msgID, s.version, s.key))
		case c.key != s.key || c.version != s.version:
			wrong = append(wrong, fmt.Sprintf("I7 changed: %s is version %d of %s, published was version %d of %s", s.msgID, c.version, c.key, s.version, s.key))
		}
	}
	return wrong
}

// reordered: I4, the first publications of a key are in the order of its
// commits. What was published to a broker that has since forgotten everything
// need not have been seen: then only later commits count.
func (h *history) reordered(rows map[string]committed) (wrong []string) {
	versions := map[string][]committed{} // of each key, in order
	for _, c := range h.committed {
		if !c.poison {
			versions[c.key] = append(versions[c.key], c)
		}
	}
	for _, v := range versions {
		slices.SortFunc(v, func(a, b committed) int { return cmp.Compare(a.version, b.version) })
	}
	seen := map[string]bool{}
	for _, s := range h.stored {
		if seen[s.msgID] {
			continue
		}
		seen[s.msgID] = true
		c, ok := rows[s.msgID]
		if !ok {
			continue
		}
		for _, before := range versions[c.key] {
			if before.version >= c.version {
				break
			}
			if !seen[before.msgID] && !h.forgotten(before.at, s.generation) {
				wrong = append(wrong, fmt.Sprintf("I4 order: version %d of %s came before version %d", c.version, c.key, before.version))
			}
		}
	}
	return wrong
}

// forgotten says whether a message of that time may have been taken by a
// broker before its present generation.
func (h *history) forgotten(at time.Time, generation int) bool {
	return generation > 0 && at.Before(h.wipes[generation-1].Add(clocks))
}

// effectsOnce: I8, what is asked for happens, and once.
func (h *history) effectsOnce() (wrong []string) {
	wanted := map[string]bool{}
	for _, c := range h.committed {
		if !c.poison {
			wanted[c.effect] = true
		}
	}
	for effect := range wanted {
		if n := h.effects[effect]; n != 1 {
			wrong = append(wrong, fmt.Sprintf("I8 effects: %s happened %d times", effect, n))
		}
	}
	for effect := range h.effects {
		if !wanted[effect] {
			wrong = append(wrong, fmt.Sprintf("I8 effects: %s happened, and nobody had asked for it", effect))
		}
	}
	slices.Sort(wrong)
	return wrong
}

// positions: I5, no position goes back; I6, a lane's epochs go up, by one or
// more with each new owner.
func (h *history) positions() (wrong []string) {
	last := map[int]laneSample{}
	for _, s := range h.lanes {
		l, seen := last[s.lane]
		last[s.lane] = s
		if !seen {
			continue
		}
		if l.era == s.era && (s.xmax < l.xmax || (s.xmax == l.xmax && s.pos < l.pos)) {
			wrong = append(wrong, fmt.Sprintf("I5 back: lane %d went from %d/%d to %d/%d", s.lane, l.xmax, l.pos, s.xmax, s.pos))
		}
		if l.era == s.era && (s.epoch < l.epoch || (s.epoch == l.epoch && s.owner != l.owner && s.owner != "" && l.owner != "")) {
			wrong = append(wrong, fmt.Sprintf("I6 epochs: lane %d was of %q in epoch %d, then of %q in epoch %d", s.lane, l.owner, l.epoch, s.owner, s.epoch))
		}
	}
	return wrong
}

// settledTooEarly: I5, no position is past a message that is neither published
// nor set aside.
func (h *history) settledTooEarly(first map[string]stored, rows map[string]committed) (wrong []string) {
	for id, at := range h.passed {
		c, ok := rows[id]
		if !ok || c.poison {
			continue
		}
		if s, published := first[id]; published && s.at.After(at.Add(clocks)) && !h.forgotten(c.at, s.generation) {
			wrong = append(wrong, fmt.Sprintf("I5 past: the position was past version %d of %s %s before that was published", c.version, c.key, s.at.Sub(at)))
		}
	}
	slices.Sort(wrong)
	return wrong
}

// goneTooEarly: I13, no row is taken away before it was published and kept for
// a while.
func (h *history) goneTooEarly(first map[string]stored) (wrong []string) {
	for id, at := range h.gone {
		if s, published := first[id]; published && at.Before(s.at.Add(h.retain-clocks)) {
			wrong = append(wrong, fmt.Sprintf("I13 gone: version %d of %s was kept for %s only", s.version, s.key, at.Sub(s.at)))
		}
	}
	slices.Sort(wrong)
	return wrong
}

// A checker that finds nothing in a history with a fault in it would find
// nothing in any.
func TestTheHistoryCheckerFindsEveryFault(t *testing.T) {
	t.Parallel()
	at := func(s int) time.Time { return time.Unix(int64(s), 0) }
	good := func() *history {
		return &history{
			committed: []committed{
				{"m1", "k", 1, "e1", false, at(1)}, {"m2", "k", 2, "e2", false, at(2)}, {"m3", "k", 3, "e3", true, at(3)}, {"m4", "k", 4, "e2", false, at(4)},
			},
			stored: []stored{{"m1", "k", 1, at(2), 0}, {"m2", "k", 2, at(3), 0}, {"m1", "k", 1, at(4), 0}, {"m4", "k", 4, at(5), 0}},
			dead:   map[string]bool{"m3": true}, effects: map[string]int{"e1": 1, "e2": 1}, retain: 3 * time.Second,
			lanes:  []laneSample{{xmax: 5, pos: 9, owner: "a", epoch: 1}, {xmax: 6, owner: "a", epoch: 1}, {xmax: 6, owner: "b", epoch: 2}, {era: 1, xmax: 4, epoch: 3}},
			passed: map[string]time.Time{"m1": at(2), "m2": at(4)}, gone: map[string]time.Time{"m1": at(6)},
		}
	}
	if wrong := good().check(); len(wrong) > 0 {
		t.Fatalf("a good history: %q", wrong)
	}
	for name, c := range map[string]struct {
		spoil func(h *history)
		want  string
	}{
		"a message is lost":               {func(h *history) { h.stored = h.stored[:3] }, "I1 lost: m4, version 4 of k"},
		"poison is lost":                  {func(h *history) { h.dead = nil }, "I1 lost: poison m3 of k is no dead letter"},
		"a good one is a dead letter":     {func(h *history) { h.dead["m2"] = true }, "I1 dead: m2, version 2 of k, is a dead letter for no reason"},
		"one was rolled back":             {func(h *history) { h.committed, h.effects = h.committed[:3], map[string]int{"e1": 1, "e2": 1} }, "I2 phantom: m4, version 4 of k"},
		"one is not what its row says":    {func(h *history) { h.stored[3].version = 5 }, "I7 changed: m4 is version 4 of k, published was version 5 of k"},
		"two are in the wrong order":      {func(h *history) { h.stored[0], h.stored[2] = h.stored[1], h.stored[0] }, "I4 order: version 2 of k came before version 1"},
		"an effect happened twice":        {func(h *history) { h.effects["e2"] = 2 }, "I8 effects: e2 happened 2 times"},
		"an effect did not happen":        {func(h *history) { delete(h.effects, "e1") }, "I8 effects: e1 happened 0 times"},
		"nobody asked for an effect":      {func(h *history) { h.effects["e9"] = 1 }, "I8 effects: e9 happened, and nobody had asked for it"},
		"the position went back":          {func(h *history) { h.lanes[1].xmax = 4 }, "I5 back: lane 0 went from 5/9 to 4/0"},
		"an epoch went back":              {func(h *history) { h.lanes[2].epoch = 0 }, "I6 epochs: lane 0 was of \"a\" in epoch 1, then of \"b\" in epoch 0"},
		"two owners had one epoch":        {func(h *history) { h.lanes[2].epoch = 1 }, "I6 epochs: lane 0 was of \"a\" in epoch 1, then of \"b\" in epoch 1"},
		"the position was past one early": {func(h *history) { h.passed["m2"] = at(2) }, "I5 past: the position was past version 2 of k 1s before that was published"},
		"a row was taken away early":      {func(h *history) { h.gone["m1"] = at(4) }, "I13 gone: version 1 of k was kept for 2s only"},
		"the broker forgot, and a later one is lost": {func(h *history) { h.wipes, h.stored = []time.Time{at(3)}, []stored{{"m4", "k", 4, at(5), 1}} },
			"I1 lost: m1, version 1 of k"},
	} {
		t.Run(name, func(t *testing.T) {
			h := good()
			c.spoil(h)
			if wrong := h.check(); !slices.Contains(wrong, c.want) {
				t.Errorf("got %q, want %q", wrong, c.want)
			}
		})
	}
	// What a broker forgot may come again in any order; what was committed since may not.
	h := good()
	h.wipes = []time.Time{at(3)}
	h.stored = []stored{{"m4", "k", 4, at(5), 1}, {"m1", "k", 1, at(6), 1}, {"m2", "k", 2, at(6), 1}}
	h.gone, h.passed = nil, nil
	if wrong := h.check(); len(wrong) > 0 {
		t.Errorf("after the broker forgot: %q", wrong)
	}
	h.wipes = []time.Time{at(1)}
	if wrong := h.check(); !slices.Equal(wrong, []string{"I4 order: version 4 of k came before version 2"}) {
		t.Errorf("one that was committed after the broker forgot: %q", wrong)
	}
}

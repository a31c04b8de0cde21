package coordinator

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/skald-saga/skald/internal/saga"
	"github.com/skald-saga/skald/internal/simulation"
)

// world is one schedule: all that there is, and all that happens in it, in an
// order that follows from the seed.
type world struct {
	simulation.Seeded
	weather
	*lab
	seed    uint64
	plant   plant
	log     *strings.Builder // nil: nobody reads it
	now     time.Time
	db      *simDB
	nats    simNATS
	servers []*simServer
	tasks   []*task
	current *task // which runs

	participants simulation.Participants
	said         map[statement]bool
	wishes       []*wish
	ids          uint32
	sources      []*source // of the versions of the definition; the last one is current
}

// weather is what may go wrong in a world: chances in a thousand. Worlds in
// which some things never go wrong reach states that others do not.
type weather struct {
	flaky      int // a connection to the database is lost, before or after the commit
	crashes    int // a server or a relay dies, of all that happens
	losses     int // a message, an acknowledgement or a participant is lost
	duplicates int
	odd        int // a reply does not say which attempt it answers
	refusals   int // a participant says something else than yes
	outages    int // NATS is away, full or wiped; of all that happens
	operators  int // ask for something, of all that happens
	pausing    int // participants or the definition are paused, or resumed; of all that happens
	meddling   bool
	poisonous  bool // a result cannot be stored
}

func (w *world) chance(inThousand int) bool { return inThousand > 0 && w.IntN(1000) < inThousand }

// simServer is a coordinator, with a clock of its own.
type simServer struct {
	*world
	number int
	skew   time.Duration
	c      *Coordinator
}

// lab is what worlds use one after the other, because it is dear to make.
type lab struct {
	idle    []*coroutine
	servers []*Coordinator
}

// close ends the coroutines.
func (l *lab) close() {
	for _, co := range l.idle {
		co.stop()
	}
}

// source is a definition in the library.
type source struct {
	once  sync.Once
	def   *saga.Definition
	input json.RawMessage
}

// library holds the definitions that worlds choose from: to parse some for
// every world would take most of the time.
var library [4096]source

func (src *source) load(number int) *source {
	src.once.Do(func() {
		text, input, err := simulation.Definition(simulation.NewSeeded(uint64(number), 1), number%4 == 0)
		if err == nil {
			src.def, err = saga.Parse(text)
		}
		if err != nil {
			panic(fmt.Sprintf("definition %d: %v", number, err))
		}
		src.input = json.RawMessage(input)
	})
	return src
}

var (
	simStart   = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	simMetrics = NewMetrics(nil)
	simLog     = slog.New(slog.DiscardHandler)
)

func newWorld(l *lab, seed uint64, planted plant, log *strings.Builder) *world {
	w := &world{Seeded: simulation.NewSeeded(seed, 0), lab: l, seed: seed, plant: planted, log: log, now: simStart}
	w.db = &simDB{w: w, sagas: map[uuid.UUID]*simSaga{}, keys: map[keyOf]*simKey{}, locks: map[string][]simLock{}, guards: map[string]*simSession{}}
	w.said = map[statement]bool{}
	w.nats = simNATS{w: w, full: map[string]bool{}, known: map[any]bool{}}
	w.participants.Forgetful, w.participants.Trusting = planted == forgetfulInbox, planted == trustingInbox
	w.weather = weather{
		flaky: w.oneOf(0, 0, 20, 100), crashes: w.oneOf(0, 10, 40), losses: w.oneOf(0, 20, 150), duplicates: w.oneOf(0, 20, 200),
		odd: w.oneOf(0, 200), refusals: w.oneOf(0, 100, 300, 600), outages: w.oneOf(0, 0, 20), operators: w.oneOf(0, 0, 40, 120),
		pausing:  w.oneOf(0, 0, 0, 30),
		meddling: w.IntN(3) == 0, poisonous: w.IntN(8) == 0,
	}
	for i := range 1 + w.IntN(2) {
		s := &simServer{world: w, number: i + 1}
		if w.IntN(4) == 0 {
			s.skew = time.Duration(w.IntN(7)-3) * time.Second
		}
		if i == len(l.servers) {
			l.servers = append(l.servers, &Coordinator{stopped: make(chan struct{}), timerPoke: make(chan time.Time, 1)})
		}
		s.c = l.servers[i]
		w.servers = append(w.servers, s)
		s.boot()
	}
	w.publishDefinition()
	for range 1 + w.IntN(3) {
		w.wishFor()
	}
	return w
}

func (w *world) oneOf(chances ...int) int { return chances[w.IntN(len(chances))] }

// boot starts the server's program: it remembers nothing.
func (s *simServer) boot() {
	c := s.c
	c.Config = Config{
		Log: simLog, Prefix: "skald", Wake: func() {}, Metrics: simMetrics,
		Now: func() time.Time { return s.world.now.Add(s.skew) },
	}
	c.db, c.newID, c.wait = s.db, s.newID, func(context.Context, time.Duration) { s.step() }
	c.memory, c.definitions = memory{}, definitions{}
	s.look()
	for i := range s.sources {
		s.learn(i)
	}
}

// learn tells the server of a version of the definition, as if it had just read
// that new sagas use it.
func (s *simServer) learn(version int) {
	def := *s.sources[version].def
	def.Version = version + 1
	ds := &s.c.definitions
	ds.add(&definition{Definition: &def, id: int32(version + 1)})
	ds.names = map[string]name{def.Name: {current: int32(version + 1)}}
	ds.readAt = s.world.now.AddDate(100, 0, 0) // there is no database to ask
}

// publishDefinition makes another version of the definition the current one, of
// which nobody may know but the sagas that begin now.
func (w *world) publishDefinition() {
	n := w.IntN(len(library))
	w.sources = append(w.sources, library[n].load(n))
	for _, s := range w.servers {
		s.learn(len(w.sources) - 1)
	}
	w.logf("version %d: %s", len(w.sources), w.sources[len(w.sources)-1].def.Source)
}

// newID gives ids in their order, as the real ones are.
func (w *world) newID() (uuid.UUID, error) {
	w.ids++
	id := uuid.UUID{6: 0x70, 8: 0x80}
	binary.BigEndian.PutUint32(id[:], uint32(w.seed)) // backoff depends on ids: let worlds differ in it
	binary.BigEndian.PutUint32(id[10:], w.ids)
	return id, nil
}

func (w *world) logf(format string, args ...any) {
	if w.log != nil {
		fmt.Fprintf(w.log, "%9s  "+format+"\n", append([]any{w.now.Sub(simStart)}, args...)...)
	}
}

// name is what the log calls a saga.
func (st *simSaga) name() string {
	return fmt.Sprint(binary.BigEndian.Uint32(st.id[10:]))
}

func (w *world) someServer() *simServer { return w.servers[w.IntN(len(w.servers))] }

// chaos lets things happen in any order.
func (w *world) chaos() {
	for range 80 + w.IntN(220) {
		switch {
		case len(w.tasks) > 0 && w.IntN(10) < 6:
			w.runOne()
		case w.chance(w.crashes):
			w.crash()
		case w.chance(w.outages):
			w.outage()
		case w.chance(w.operators), w.operators > 0 && w.stuck() && w.chance(150):
			w.operate(w.someServer())
		case w.chance(w.pausing):
			w.pauseSome()
		case w.chance(5):
			w.publishDefinition()
		case len(w.tasks) < 5:
			w.happen()
		}
	}
}

func (w *world) stuck() bool {
	return slices.ContainsFunc(w.db.order, func(st *simSaga) bool { return st.status == saga.Stuck })
}

// happen lets something ordinary happen, of what can.
func (w *world) happen() {
	due, unanswered := w.nextTimer(), slices.ContainsFunc(w.wishes, func(x *wish) bool { return !x.answered })
	moves := []struct {
		weight int
		can    bool
		do     func()
	}{
		{6, unanswered, func() { w.start(w.someServer(), 1+w.IntN(3)) }},
		{8, len(w.nats.replies) > 0, func() { w.reply(w.someServer(), 1+w.IntN(4)) }},
		{8, len(w.nats.commands) > 0, func() { w.deliver(w.nats.commands[w.IntN(len(w.nats.commands))]) }},
		{8, w.db.settled < len(w.db.outbox), func() { w.carry(1 + w.IntN(8)) }},
		{3, len(w.db.parked) > 0, w.carryParked},
		{6, !due.IsZero() && !due.After(w.now), func() { w.fire(w.someServer(), 1+w.IntN(3)) }},
		{1, true, func() { w.fire(w.someServer(), 1+w.IntN(3)) }},
		{1, true, func() { w.start(w.someServer(), 2) }},
		{1, len(w.db.pauses.rows) > 0, func() { w.someServer().look() }},
		{1, len(w.db.pauses.rows) > 0, func() { w.release(w.someServer()) }},
		{1, len(w.db.pauses.rows) > 0, w.forgetPauses},
		{3, true, w.pass},
	}
	total := 0
	for _, m := range moves {
		if m.can {
			total += m.weight
		}
	}
	at := w.IntN(total)
	for _, m := range moves {
		if !m.can {
			continue
		}
		if at -= m.weight; at < 0 {
			m.do()
			return
		}
	}
}

// pass lets time pass; often until a timer is due.
func (w *world) pass() {
	if due := w.nextTimer(); due.After(w.now) && w.IntN(2) == 0 {
		w.now = due
		return
	}
	w.now = w.now.Add([]time.Duration{time.Millisecond, 300 * time.Millisecond, 2 * time.Second, 20 * time.Second}[w.IntN(4)])
}

func (w *world) nextTimer() time.Time {
	var next time.Time
	for _, t := range w.db.timers {
		if next.IsZero() || t.due.Before(next) {
			next = t.due
		}
	}
	return next
}

// crash kills a server, with all that it does and remembers, or a relay.
func (w *world) crash() {
	if w.IntN(3) == 0 {
		w.crashRelays()
		return
	}
	s := w.someServer()
	for _, t := range slices.Clone(w.tasks) {
		if t.server == s {
			w.kill(t)
		}
	}
	s.boot()
	w.logf("server %d starts again", s.number)
}

func (w *world) crashRelays() {
	for _, t := range slices.Clone(w.tasks) {
		if t.server == nil {
			w.kill(t)
		}
	}
}

// outage takes NATS away, or fills it, or has it forget everything.
func (w *world) outage() {
	switch w.IntN(4) {
	case 0:
		w.nats.down = !w.nats.down
	case 1:
		w.nats.wipe()
	default:
		p := []string{"p", "q"}[w.IntN(2)]
		w.nats.full[p] = !w.nats.full[p]
	}
	w.logf("NATS: down %v, full %v, %d commands, %d replies", w.nats.down, w.nats.full, len(w.nats.commands), len(w.nats.replies))
}

// reply has a server handle replies as its consumer does: what it has handled
// it acknowledges.
func (w *world) reply(s *simServer, most int) {
	w.spawn(s, "replies", func(t *task) {
		batch := w.nats.fetch(t, most)
		deliveries := make([]Delivery, len(batch))
		for i, d := range batch {
			deliveries[i] = Delivery{Reply: d.reply, Subject: "skald.reply.0"}
			if w.plant == wrongGeneration {
				deliveries[i].Reply.EffectID.Generation = 1
			}
		}
		if w.plant == earlyAcknowledgement {
			w.nats.acknowledge(batch)
		}
		err := s.c.HandleReplies(context.Background(), deliveries)
		w.logf("server %d: %d replies, %d dealt with: %v", s.number, len(batch), t.dealt, err)
		if w.plant == earlyAcknowledgement {
			w.checkDealt(t, batch)
		}
		if err != nil {
			return
		}
		w.step()
		w.checkDealt(t, batch)
		w.nats.acknowledge(batch)
	})
}

// checkDealt: what is acknowledged has been dealt with: it has changed a saga,
// was recorded as stale, or is a dead letter. (P6)
func (w *world) checkDealt(t *task, batch []*delivery) {
	if t.dealt < len(batch) {
		w.failf("P6", "%d replies were acknowledged, and %d dealt with", len(batch), t.dealt)
	}
}

func (w *world) fire(s *simServer, most int) {
	w.spawn(s, "timers", func(*task) {
		err := s.c.fireTimers(context.Background(), s.c.now(), most)
		w.logf("server %d: timers: %v", s.number, err)
	})
}

// carry has a relay publish a page.
func (w *world) carry(most int) { w.spawn(nil, "publish", func(*task) { w.relay(most) }) }

// carryParked has a relay try again what was set aside.
func (w *world) carryParked() { w.spawn(nil, "unpark", func(*task) { w.unpark() }) }

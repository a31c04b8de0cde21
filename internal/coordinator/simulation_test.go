package coordinator

import (
	"flag"
	"runtime"
	"runtime/debug"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/skald-saga/skald/internal/testkit"
)

var (
	simSeed  = flag.Uint64("simulation.seed", 0, "replay this schedule alone, and tell what happens in it")
	simCount = flag.Uint64("simulation.count", 0, "how many schedules to simulate; 0: 10000, or with the race detector 1000")
	simFirst = flag.Uint64("simulation.first", 1, "seed of the first of them; 0: by the clock")
)

// plant is something wrong that is planted, to see whether it is found.
type plant string

const (
	none                    plant = ""
	forgetfulInbox          plant = "a participant asks no inbox"
	trustingInbox           plant = "an action may come after its compensation"
	lostLocks               plant = "rows are read without a lock"
	lostGuard               plant = "a row is overwritten whatever it has become"
	blindTimers             plant = "timers do not ask whether commands were published"
	forgottenTimers         plant = "timers that have fired stay"
	forgottenRows           plant = "timers that have fired are not set again"
	lostHistory             plant = "history loses an entry"
	ignoredKeys             plant = "a start does not ask for its key"
	earlySettling           plant = "the relay settles before it publishes"
	earlyAcknowledgement    plant = "a reply is acknowledged before the commit"
	duplicateWindowByEffect plant = "the broker takes another attempt for a duplicate"
	wrongGeneration         plant = "a reply's generation is lost on the way"
)

// simulate runs one schedule.
func simulate(l *lab, seed uint64, planted plant, log *strings.Builder) (broken *violation) {
	w := newWorld(l, seed, planted, log)
	defer func() {
		switch v := recover().(type) {
		case nil:
		case violation:
			broken = &v
			l.idle = nil // some of them are in the middle of something
		default:
			panic(v)
		}
	}()
	w.chaos()
	w.calm()
	w.checkEnd()
	w.aftermath()
	w.calm() // a late reply may have contradicted an operator
	w.checkEnd()
	return nil
}

func TestSimulatedSchedulesKeepThePromises(t *testing.T) {
	t.Parallel()
	if *simSeed != 0 {
		var log strings.Builder
		v := simulate(&lab{}, *simSeed, none, &log)
		t.Logf("schedule %d:\n%s", *simSeed, log.String())
		if v != nil {
			t.Fatal(v)
		}
		return
	}
	defer debug.SetGCPercent(debug.SetGCPercent(400)) // little lives long here
	first, count := *simFirst, *simCount
	if first == 0 {
		first = uint64(time.Now().UnixMicro())
	}
	if count == 0 {
		count = 10_000
		if testkit.Race {
			count = 1000
		}
	}
	t.Logf("schedules %d to %d", first, first+count-1)
	var next atomic.Uint64
	next.Store(first - 1)
	var wg sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		wg.Go(func() {
			var l lab
			defer l.close()
			for seed := next.Add(1); seed < first+count; seed = next.Add(1) {
				if v := simulate(&l, seed, none, nil); v != nil {
					t.Errorf("schedule %d: %s\nsee it with: go test ./internal/coordinator -run Simulated -simulation.seed %d -v", seed, v, seed)
					return
				}
			}
		})
	}
	wg.Wait()
}

// A simulation that finds nothing proves nothing: of these bugs, planted round
// the coordinator one at a time, it finds each, by a promise that it
// breaks; by which of them first is chance.
func TestTheSimulationFindsPlantedBugs(t *testing.T) {
	t.Parallel()
	for planted, promises := range map[plant]string{
		forgetfulInbox:          "P5",
		trustingInbox:           "P3 P5",
		lostLocks:               "P2 P5 P6 P7",
		lostGuard:               "P2 P5 P6 P7",
		blindTimers:             "P2",
		forgottenTimers:         "P2",
		forgottenRows:           "P2",
		lostHistory:             "P7",
		ignoredKeys:             "P8",
		earlySettling:           "P2 P9",
		earlyAcknowledgement:    "P6",
		duplicateWindowByEffect: "P2",
		wrongGeneration:         "P2 P3 P5 P6",
	} {
		t.Run(string(planted), func(t *testing.T) {
			t.Parallel()
			var l lab
			defer l.close()
			for seed := uint64(1); seed <= 20_000; seed++ {
				if v := simulate(&l, seed, planted, nil); v != nil {
					t.Logf("schedule %d: %s", seed, v)
					if !strings.Contains(promises, v.promise) {
						t.Errorf("schedule %d: %s, want %s", seed, v, promises)
					}
					return
				}
			}
			t.Error("not found")
		})
	}
}

// What a seed has shown it shows again, whatever was simulated before it.
func TestAScheduleReplaysExactly(t *testing.T) {
	t.Parallel()
	var used lab
	defer used.close()
	for seed := range uint64(100) {
		var first, again strings.Builder
		simulate(&lab{}, seed, none, &first)
		simulate(&used, seed, none, &again)
		if first.String() != again.String() {
			t.Fatalf("schedule %d was\n%s\nand is now\n%s", seed, first.String(), again.String())
		}
	}
}

package saga_test

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/skald-saga/skald/internal/saga"
	"github.com/skald-saga/skald/internal/simulation"
)

func TestMain(m *testing.M) {
	// A default: -rapid.checks on the command line goes before it.
	if err := flag.Set("rapid.checks", "400"); err != nil {
		panic(err)
	}
	os.Exit(m.Run())
}

// randomSaga draws a definition and an input for it; with errors, some of its
// expressions fail.
func randomSaga(t *rapid.T, errors bool) (def *saga.Definition, input string) {
	source, input, err := simulation.Definition(chooser{t}, errors)
	if err != nil {
		t.Fatal(err)
	}
	return parse(t, string(source)), input
}

// chooser lets rapid choose, which then finds the smallest choices that fail.
type chooser struct{ t *rapid.T }

func (c chooser) Choose(label string, n int) int { return rapid.IntRange(0, n-1).Draw(c.t, label) }

func draw[T any](t *rapid.T, label string, from ...T) T {
	return rapid.SampledFrom(from).Draw(t, label)
}

// laws are checked after every event.
type laws struct {
	*life
	turned  bool                    // the saga was being undone before the event
	before  saga.State              // the event
	checked int                     // commands
	effects map[string]saga.Command // first command of each effect
	tried   map[string]int          // attempts of each operation
	granted map[string]int          // attempts that were made before an operator gave new ones
}

func (l *laws) check() {
	l.t.Helper()
	for _, c := range l.sent[l.checked:] {
		l.checkCommand(c)
	}
	l.checkRoom()
	l.checked, l.turned, l.before = len(l.sent), l.state.Cause != nil, l.state
	l.checkEnd()
}

// checkRoom checks max_parallel, from which only operators are exempt.
func (l *laws) checkRoom() {
	l.t.Helper()
	inFlight := 0
	for _, st := range l.state.Steps {
		if st.Status == saga.StepRunning || st.Status == saga.StepCompensating {
			inFlight++
		}
	}
	if l.def.MaxParallel == 0 || inFlight <= l.def.MaxParallel {
		return
	}
	if !slices.ContainsFunc(l.history, func(e saga.Entry) bool { return e.Type == saga.RetryAsked }) {
		l.t.Fatalf("%d steps are in flight, of %d allowed: %s", inFlight, l.def.MaxParallel, l.picture())
	}
}

func (l *laws) checkCommand(c saga.Command) {
	l.t.Helper()
	i := l.def.Index(c.Step)
	step := l.def.Steps[i]
	if l.state.Paused() || l.state.WaitsFor() != "" {
		l.t.Fatalf("%s was sent although the saga is paused, or waits for %q", c.Operation, l.state.WaitsFor())
	}
	// P5: one effect id is one effect, whichever attempt carries it.
	effect := fmt.Sprintf("%s/%s~%d", c.Step, c.Phase, c.Generation)
	if first, known := l.effects[effect]; !known {
		l.effects[effect] = c
	} else if string(first.Payload) != string(c.Payload) || !first.EffectTime.Equal(c.EffectTime) || first.Operation != c.Operation ||
		first.ActionOutcome != c.ActionOutcome || first.ActionGen != c.ActionGen {
		l.t.Fatalf("two commands of the effect %s:\n%+v\n%+v", effect, first, c)
	}
	operation := c.Step + "/" + string(c.Phase)
	policy := step.Retry
	if c.Phase == saga.Compensation {
		policy = step.CompensationRetry
	}
	if l.before.Status != "" && l.before.Steps[i].Status == saga.StepStuck {
		l.granted[operation] = l.tried[operation]
	}
	l.tried[operation]++
	if c.Attempt != l.tried[operation] || (policy.MaxAttempts > 0 && c.Attempt > l.granted[operation]+policy.MaxAttempts) {
		l.t.Fatalf("attempt %d of %s follows %d others, of %d allowed", c.Attempt, operation, l.tried[operation]-1, policy.MaxAttempts)
	}
	switch {
	case c.Phase == saga.Compensation:
		l.checkCompensation(i, c)
	case l.turned:
		l.t.Fatalf("%s was sent although the saga is being undone", operation)
	case step.Kind != saga.Retriable && c.Generation != 1:
		l.t.Fatalf("%s has generation %d", operation, c.Generation)
	}
	for _, p := range step.After {
		if l.def.Steps[p].Kind == saga.Notification || l.state.Cause != nil { // turned back by what came next, in the same decision
			continue
		}
		if s := l.state.Steps[p].Status; c.Phase == saga.Action && c.Attempt == 1 && s != saga.StepSucceeded && s != saga.StepSkipped {
			l.t.Fatalf("%s was sent while the step before it is %s", operation, s)
		}
	}
}

// P3: compensations go in reverse dependency order, and none goes once the
// pivot is passed.
func (l *laws) checkCompensation(i int, c saga.Command) {
	l.t.Helper()
	if l.def.Steps[i].Kind != saga.Compensatable || l.state.Cause == nil {
		l.t.Fatalf("%s was sent: the step is %s, the cause %+v", c.Operation, l.def.Steps[i].Kind, l.state.Cause)
	}
	if c.Attempt > 1 {
		return // it had its turn; a pivot may have become doubtful since
	}
	for j, step := range l.def.Steps {
		st := l.state.Steps[j]
		switch {
		case step.Kind == saga.Notification:
		case step.Kind != saga.Compensatable && st.Phase != "" && st.Status != saga.StepFailed && st.Status != saga.StepSkipped:
			l.t.Fatalf("%s was sent while %s, a %s step, is %s", c.Operation, step.Name, step.Kind, st.Status)
		case st.Status == saga.StepRunning:
			l.t.Fatalf("%s was sent while %s is in flight", c.Operation, step.Name)
		case l.def.OnStuck == saga.StuckContinues && st.Status == saga.StepStuck && st.Phase == saga.Compensation: // those behind it need not wait
		case l.follows(j, i) && step.Compensation != "" &&
			(st.Status == saga.StepSucceeded || st.Status == saga.StepUnknown || st.Status == saga.StepCompensating || st.Status == saga.StepStuck):
			l.t.Fatalf("%s was sent before %s, which comes after it, was undone: it is %s", c.Operation, step.Name, st.Status)
		}
	}
}

// follows reports whether step j depends on step i, over any number of others.
func (l *laws) follows(j, i int) bool {
	return slices.ContainsFunc(l.def.Steps[j].After, func(p int) bool { return p == i || l.follows(p, i) })
}

// P3: all or nothing.
func (l *laws) checkEnd() {
	l.t.Helper()
	undone := slices.ContainsFunc(l.sent, func(c saga.Command) bool { return c.Phase == saga.Compensation })
	for i, step := range l.def.Steps {
		st := l.state.Steps[i]
		if step.Kind == saga.Notification { // outside of all that
			continue
		}
		switch l.state.Status {
		case saga.Completed:
			if undone || (st.Status != saga.StepSucceeded && st.Status != saga.StepSkipped) {
				l.t.Fatalf("completed, but %s, compensations sent: %v", l.picture(), undone)
			}
		case saga.Compensated:
			mayBeThere := st.Status == saga.StepSucceeded || st.Status == saga.StepUnknown
			if mayBeThere && (step.Kind != saga.Compensatable || step.Compensation != "") {
				l.t.Fatalf("compensated, but %s", l.picture())
			}
			if !mayBeThere && !slices.Contains([]saga.StepStatus{saga.StepPending, saga.StepFailed, saga.StepSkipped, saga.StepCompensated}, st.Status) {
				l.t.Fatalf("compensated, but %s", l.picture())
			}
			if st.Status == saga.StepSkipped && st.Phase != "" {
				l.t.Fatalf("compensated, but an operator let %s be", step.Name)
			}
		}
	}
	if end := l.history[len(l.history)-1]; l.state.Status == saga.Abandoned && end.Actor == "" && !strings.HasPrefix(end.Reason, "not undone: ") {
		l.t.Fatalf("abandoned by nobody: %+v", end)
	}
}

func newLaws(l *life) *laws {
	w := &laws{life: l, effects: map[string]saga.Command{}, tried: map[string]int{}, granted: map[string]int{}}
	w.check()
	return w
}

// Any reply to any command ever sent may come at any time, any number of
// times, with any outcome and any attempt, or none; ticks come at any time,
// and so do the requests of operators. (P2, P3, P5, P6, P7)
func TestAnyReplyToAnyCommandMayComeAtAnyTime(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		def, input := randomSaga(t, true)
		l := newLaws(beginWith(t, def, input, randomOpening(t)))
		for range rapid.IntRange(0, 60).Draw(t, "events") {
			l.now = l.now.Add(randomPause(t, l.life))
			l.held = draw(t, "held", l.held, l.held, l.held, nil, []string{"p"}, []string{"q"}, []string{"p", "q"})
			l.checkAllowed()
			switch what := rapid.IntRange(0, 24).Draw(t, "event"); {
			case what == 24:
				l.give(saga.Granted{})
			case what == 0:
				l.give(saga.Cancel{Reason: "r", Actor: "a"})
			case what > 19:
				l.give(randomRequest(t, l.life))
			case what < 6:
				l.give(saga.Tick{Publication: draw(t, "publication", saga.Published, saga.Published, saga.Withheld, saga.JustPublished)})
			case len(l.sent) > 0:
				l.give(randomReply(t, l.sent))
			}
			l.check()
		}
		l.finish()
	})
}

// randomOpening draws whether the saga begins at once.
func randomOpening(t *rapid.T) saga.Opening {
	return saga.Opening{StartAt: draw(t, "start at", time.Time{}, time.Time{}, t0, t0.Add(2*time.Second), t0.Add(time.Minute))}
}

// randomPause draws how much time passes; often until something is due.
func randomPause(t *rapid.T, l *life) time.Duration {
	if at := l.state.WakeAt(); at.After(l.now) && rapid.Bool().Draw(t, "until due") {
		return at.Sub(l.now)
	}
	return draw(t, "pause", 0, time.Millisecond, 300*time.Millisecond, 2*time.Second, time.Minute)
}

func randomReply(t *rapid.T, sent []saga.Command) saga.Reply {
	c := rapid.SampledFrom(sent).Draw(t, "answered command")
	r := answer(c, draw(t, "outcome", saga.Succeeded, saga.Succeeded, saga.Failed, saga.Retry, saga.InProgress, saga.Outcome("nonsense")))
	switch rapid.IntRange(0, 9).Draw(t, "attempt") {
	case 0:
		r.Attempt = 0
	case 1:
		r.Attempt = rapid.IntRange(1, 4).Draw(t, "other attempt")
	case 2:
		r.Generation = rapid.IntRange(1, 3).Draw(t, "other generation")
	}
	switch r.Outcome {
	case saga.Succeeded:
		r.Result = draw(t, "result", json.RawMessage(nil), json.RawMessage(`null`), json.RawMessage(`{ "id": "<1>" }`))
	case saga.Retry:
		r.RetryAfter = draw(t, "retry after", 0, 0, time.Minute)
	case saga.InProgress:
		r.Extend = draw(t, "extend", 0, time.Second, time.Hour)
	case saga.Failed:
		r.Failure = draw(t, "failure", nil, &saga.Failure{Code: "no", Message: "never"})
	}
	return r
}

// randomRequest draws an operator's request, possible or not.
func randomRequest(t *rapid.T, l *life) saga.Event {
	step := rapid.SampledFrom(l.def.Steps).Draw(t, "step").Name
	for i, s := range l.def.Steps {
		if l.state.Steps[i].Status == saga.StepStuck && rapid.Bool().Draw(t, "the stuck one") {
			step = s.Name
		}
	}
	switch rapid.IntRange(0, 13).Draw(t, "request") {
	case 12, 13:
		return randomReschedule(t, l)
	case 0:
		return saga.Abandon{Reason: "r", Actor: "a"}
	case 4:
		return saga.Pause{Reason: "r", Actor: "a"}
	case 5, 6:
		return saga.Resume{Reason: "r", Actor: "a"}
	case 1, 2:
		return saga.TryNow{Reason: "r", Actor: "a"}
	case 3:
		return saga.TryNow{Step: step, Payload: draw(t, "payload", json.RawMessage(nil), json.RawMessage(`{"given": "<1>"}`)), Actor: "a"}
	}
	return saga.Resolve{
		Step: step, Phase: draw(t, "phase", saga.Action, saga.Action, saga.Compensation), Reason: "r", Actor: "a",
		Outcome: draw(t, "resolution", saga.ResolveSucceeded, saga.ResolveFailed, saga.ResolveSkipped),
	}
}

// randomReschedule draws one of a saga's timers, or one that it does not have,
// and a time to move it to.
func randomReschedule(t *rapid.T, l *life) saga.Event {
	timers := append(saga.Timers(l.def, l.state), saga.Timer{Awaited: saga.Awaited{Kind: saga.BackoffTimer, Step: "a", Phase: saga.Action, Attempt: 1}})
	return saga.Reschedule{
		Timer: rapid.SampledFrom(timers).Draw(t, "timer").Awaited, Reason: "r", Actor: "a",
		At: draw(t, "moved to", time.Time{}, l.now.Add(-time.Minute), l.now, l.now.Add(time.Second), l.now.Add(time.Hour)),
	}
}

// checkAllowed compares what is said to be allowed with what would be taken.
func (l *laws) checkAllowed() {
	l.t.Helper()
	taken := func(ev saga.Event) bool {
		d, err := saga.Advance(l.def, l.state, ev, l.now, l.held...)
		if err != nil {
			l.t.Fatal(err)
		}
		return d.Ignored == "" && d.Illegal == ""
	}
	var want []string
	for _, verb := range []struct {
		name string
		ev   saga.Event
	}{{"cancel", saga.Cancel{}}, {"retry", saga.TryNow{}}, {"resolve", nil}, {"pause", saga.Pause{}}, {"resume", saga.Resume{}}, {"abandon", saga.Abandon{}}} {
		if verb.ev == nil && l.checkResolutions(taken) || verb.ev != nil && taken(verb.ev) {
			want = append(want, verb.name)
		}
	}
	if l.state.Status == saga.Compensated || l.state.Status == saga.Abandoned {
		want = append(want, "restart")
	}
	same(l.t, "allowed, and not taken, or the other way round", want, saga.Allowed(l.def, l.state))
}

// checkResolutions does the same for each step, and reports whether anything
// can be resolved.
func (l *laws) checkResolutions(taken func(saga.Event) bool) (some bool) {
	l.t.Helper()
	for i, step := range l.def.Steps {
		var want []saga.Resolution
		for _, outcome := range []saga.Resolution{saga.ResolveSucceeded, saga.ResolveFailed, saga.ResolveSkipped, "nonsense"} {
			for _, phase := range []saga.Phase{saga.Action, saga.Compensation} {
				if taken(saga.Resolve{Step: step.Name, Phase: phase, Outcome: outcome}) {
					want, some = append(want, outcome), true
				}
			}
		}
		same(l.t, "resolutions of "+step.Name, want, saga.Resolutions(l.def, l.state, i))
	}
	return some
}

// finish answers every command with success from now on, and an operator
// helps where that is not enough: the saga ends within a bounded number of
// events (P2).
func (l *laws) finish() {
	l.t.Helper()
	l.held = nil
	l.give(saga.Tick{})
	for range 8*len(l.def.Steps) + 8 {
		if l.state.Status.Ended() {
			return
		}
		switch {
		case l.state.WaitsFor() == saga.ForLock:
			l.give(saga.Granted{})
		case l.state.Paused():
			l.give(saga.Resume{})
		case l.answerOne():
		case !l.state.WakeAt().IsZero():
			l.wake()
		default:
			l.help()
		}
		l.check()
	}
	l.t.Fatalf("the saga does not end although everything succeeds and somebody helps: %s", l.picture())
}

// help resolves the first step that is stuck.
func (l *laws) help() {
	l.t.Helper()
	for i, step := range l.def.Steps {
		if possible := saga.Resolutions(l.def, l.state, i); len(possible) > 0 {
			l.give(saga.Resolve{Step: step.Name, Phase: l.state.Steps[i].Phase, Outcome: possible[0], Actor: "a"})
			return
		}
	}
	l.t.Fatalf("nothing will happen, and nobody can help: %s", l.picture())
}

// answerOne answers commands with success until one of the replies counts.
func (l *laws) answerOne() bool {
	l.t.Helper()
	for i := len(l.sent) - 1; i >= 0; i-- {
		if l.give(answer(l.sent[i], saga.Succeeded)).Ignored == "" {
			return true
		}
	}
	return false
}

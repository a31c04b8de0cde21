package coordinator_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/skald-saga/skald/internal/coordinator"
	"github.com/skald-saga/skald/internal/saga"
	"github.com/skald-saga/skald/internal/testkit"
	"github.com/skald-saga/skald/internal/wire"
)

// idle returns a server that only handles replies, and remembers the sagas it
// has handled. It fires no timers.
func (f *fixture) idle() *coordinator.Coordinator {
	f.t.Helper()
	c := coordinator.New(coordinator.Config{Pool: f.pool, Log: testkit.Log(f.t), Now: f.clock.Now})
	def, err := saga.Parse([]byte(threeSteps))
	if err != nil {
		f.t.Fatal(err)
	}
	if err := c.Register(f.t.Context(), def); err != nil {
		f.t.Fatal(err)
	}
	return c
}

func (f *fixture) replyTo(c *coordinator.Coordinator, cmd wire.Command, outcome wire.Outcome) {
	f.t.Helper()
	if err := c.HandleReplies(f.t.Context(), []coordinator.Delivery{reply(cmd, outcome)}); err != nil {
		f.t.Fatal(err)
	}
}

// Plans are kept: one that reads the whole table because it is small today is
// used when it is large.
func TestSagasAreFoundByTheirIDsHoweverFewThereAre(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	scans := func(how string) int {
		return f.count(`SELECT ` + how + ` FROM pg_stat_user_tables WHERE relname = 'saga'`)
	}
	const n = 20
	for range n {
		f.start()
	}
	pool := testkit.Pool(t, f.pool.Config().ConnString())
	c := coordinator.New(coordinator.Config{Pool: pool, Now: f.clock.Now})
	for range 2 { // read, locked and changed; then changed again, from memory
		for _, cmd := range f.commands() {
			f.replyTo(c, cmd, wire.Succeeded)
		}
	}
	pool.Close() // which is when its sessions count what they did
	testkit.Eventually(t, "the scans are counted", 20*time.Second, func() (bool, string) {
		found := scans("idx_scan")
		return found >= 3*n, fmt.Sprint(found)
	})
	if whole := scans("seq_scan"); whole > 0 {
		t.Errorf("the whole table was read %d times", whole)
	}
}

// P6, P7: a server whose memory of a saga is out of date changes nothing by it.
func TestAServerThatRemembersAnOldStateReadsAgain(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	s := f.start() // f.c remembers it
	first := f.only()
	other := f.idle()
	f.replyTo(other, first, wire.Succeeded)
	second := f.only()
	f.answer(first, wire.Failed) // late, and answered already: for f.c it would be the first
	if got := f.get(s.ID); got.Status != saga.Running || got.StaleReplies != 1 || got.Version != 2 {
		t.Fatalf("the saga is %s, version %d, with %d stale replies", got.Status, got.Version, got.StaleReplies)
	}
	f.answer(second, wire.Succeeded)
	f.replyTo(other, f.only(), wire.Succeeded)
	if got := f.get(s.ID); got.Status != saga.Completed {
		t.Errorf("the saga is %s", got.Status)
	}
	f.verifyHistory()
}

// P6: whoever is changing a saga has locked it, and a reply waits for what comes
// of that before it is called stale.
func TestAReplyIsNotCalledStaleWhileItsSagaIsBeingChanged(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	s := f.start()
	const (
		keep   = `CREATE TABLE kept AS SELECT id, version, state::text, wake_at, updated_at FROM saga`
		swap   = `UPDATE saga s SET version = k.version, state = k.state::json, wake_at = k.wake_at, updated_at = k.updated_at FROM `
		before = swap + `kept k WHERE k.id = s.id`
		after  = swap + `later k WHERE k.id = s.id`
	)
	first := f.only()
	for i, sql := range []string{keep, strings.Replace(keep, "kept", "later", 1), before} {
		if _, err := f.pool.Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
		if i == 0 {
			f.answer(first, wire.Succeeded)
		}
	}
	charge := f.only()
	changing, err := f.pool.Begin(t.Context()) // another server, that has not committed the first reply yet
	if err != nil {
		t.Fatal(err)
	}
	if _, err := changing.Exec(t.Context(), after); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	c := f.idle()
	go func() {
		done <- c.HandleReplies(t.Context(), []coordinator.Delivery{reply(charge, wire.Succeeded)})
	}()
	f.awaitLockWaits(1)
	if err := changing.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if got := f.get(s.ID); got.Version != 3 || got.StaleReplies != 0 {
		t.Errorf("version %d with %d stale replies, want 3 with none", got.Version, got.StaleReplies)
	}
}

// P2: a timer row that another server has used up and set anew is no change of
// the saga's version, and must be seen all the same.
func TestAServerThatRemembersAnOldTimerSetsANewOne(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	s := f.start()
	c := f.idle()
	f.replyTo(c, f.only(), wire.Succeeded) // the charge is due in 10 s
	charge := f.only()
	read := func(what string) string {
		var v string
		if err := f.pool.QueryRow(t.Context(), what).Scan(&v); err != nil {
			t.Fatal(err)
		}
		return v
	}
	const wakeAt = `SELECT wake_at::text FROM saga`
	before := read(wakeAt)
	f.clock.advance(80 * time.Second) // not published: f.c looks again in 30 s
	testkit.Eventually(t, "the timer is put off", 20*time.Second, func() (bool, string) { return read(wakeAt) != before, before })
	if got := f.get(s.ID); got.Version != 2 {
		t.Fatalf("version %d: the test wants a timer that changes nothing else", got.Version)
	}
	f.replyTo(c, charge, wire.Succeeded) // the next command is due in 10 s
	due := read(fmt.Sprintf(`SELECT (min(due_at) <= '%s')::text FROM saga_timer`, f.clock.Now().Add(10*time.Second).Format(time.RFC3339Nano)))
	if due != "true" {
		t.Error("no timer is set for the new command")
	}
}

// A standby that was promoted may lack the latest commits, and give the same
// version to another change.
func TestTheSameVersionOfAnotherChangeIsNotTakenForTheRememberedOne(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	s := f.start()
	first := f.only()
	f.answer(first, wire.Succeeded)
	charge := f.only()
	if _, err := f.pool.Exec(t.Context(), `
		UPDATE saga SET status = 'compensated', updated_at = updated_at + interval '1 second',
		       state = replace(state::text, '"status":"running"', '"status":"compensated"')::json`); err != nil {
		t.Fatal(err)
	}
	f.answer(charge, wire.Succeeded)
	if got := f.get(s.ID); got.Status != saga.Compensated || got.StaleReplies != 1 {
		t.Errorf("the saga is %s with %d stale replies: it was overwritten", got.Status, got.StaleReplies)
	}
}

package coordinator_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/skald-saga/skald/internal/coordinator"
	"github.com/skald-saga/skald/internal/saga"
	"github.com/skald-saga/skald/internal/wire"
)

// defined is a definition of one step that differs from another by its action.
func defined(t *testing.T, name, action string) *saga.Definition {
	t.Helper()
	def, err := coordinator.ParseDefinition([]byte(fmt.Sprintf("name: %s\nsteps: [{name: only, participant: p, action: %s, compensation: undo}]", name, action)))
	if err != nil {
		t.Fatal(err)
	}
	return def
}

func (f *fixture) define(c *coordinator.Coordinator, name, action string) (version int, created bool) {
	f.t.Helper()
	stored, created, err := c.Define(f.t.Context(), defined(f.t, name, action), coordinator.Operation{})
	if err != nil {
		f.t.Fatal(err)
	}
	return stored.Version, created
}

// versionOf is the version that a new saga gets.
func versionOf(t *testing.T, c *coordinator.Coordinator, name string) int {
	t.Helper()
	started, err := c.Start(t.Context(), coordinator.StartRequest{Definition: name, Input: json.RawMessage(`{}`)})
	if err != nil {
		t.Fatal(err)
	}
	return started.Saga.DefinitionVersion
}

// What one server stores, it uses at once; the others use it within a second,
// and a name that they have never heard of at once.
func TestServersLearnOfDefinitionsFromTheDatabase(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	other := f.coordinator(nil)
	f.define(f.c, "trip", "book")
	if got := versionOf(t, other, "trip"); got != 1 {
		t.Errorf("a new name: version %d", got)
	}
	f.define(f.c, "trip", "reserve")
	if got := versionOf(t, f.c, "trip"); got != 2 {
		t.Errorf("the server that stored it starts version %d", got)
	}
	f.clock.advance(time.Second)
	if got := versionOf(t, other, "trip"); got != 2 {
		t.Errorf("a second later another starts version %d", got)
	}
	if _, err := other.Start(t.Context(), coordinator.StartRequest{Definition: "tour", Input: json.RawMessage(`{}`)}); !errors.Is(err, coordinator.ErrUnknownDefinition) {
		t.Errorf("one that nobody stored: %v", err)
	}
}

// A start costs no query of its own.
func TestAStartDoesNotAskForItsDefinition(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.start()
	if _, err := f.pool.Exec(t.Context(), `ALTER TABLE definition_name RENAME TO nobody_reads_it`); err != nil {
		t.Fatal(err)
	}
	f.start()
	f.clock.advance(time.Second)
	if _, err := f.c.Start(t.Context(), coordinator.StartRequest{Definition: "order", Input: json.RawMessage(`{}`)}); err == nil {
		t.Error("after a second nobody asked what the name stands for")
	}
}

func TestTheSameContentIsTheSameVersion(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	type answer struct {
		version int
		created bool
	}
	for i, want := range []struct {
		action string
		answer
	}{{"a", answer{1, true}}, {"a", answer{1, false}}, {"b", answer{2, true}}, {"a", answer{1, false}}, {"c", answer{3, true}}} {
		version, created := f.define(f.c, "trip", want.action)
		if got := (answer{version, created}); got != want.answer {
			t.Errorf("%d: %+v, want %+v", i, got, want.answer)
		}
		if got := versionOf(t, f.c, "trip"); got != version {
			t.Errorf("%d: new sagas have version %d", i, got)
		}
	}
}

func TestServersThatDefineAtOnceNumberTheVersionsWithoutGaps(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	var all sync.WaitGroup
	for i := range 8 {
		all.Go(func() {
			if _, _, err := f.c.Define(t.Context(), defined(t, "trip", "a"+strings.Repeat("b", i/2)), coordinator.Operation{}); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	if n := f.count(`SELECT count(*) FROM definition WHERE name = 'trip' AND version <= 4`); n != 4 || f.count(`SELECT count(*) FROM definition WHERE name = 'trip'`) != 4 {
		t.Errorf("%d of 4 versions are numbered 1 to 4", n)
	}
}

// A server that is started again with the files of yesterday does not take
// back what was put today; files that have changed do.
func TestFilesReplaceWhatWasPutOnlyIfTheyHaveChanged(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	restart := func(action string) *coordinator.Coordinator {
		c := f.coordinator(nil)
		if err := c.Register(t.Context(), defined(t, "trip", action)); err != nil {
			t.Fatal(err)
		}
		return c
	}
	for i, step := range []struct {
		what   string
		action string
		want   int
	}{
		{"file", "a", 1}, {"put", "b", 2}, {"file", "a", 2}, {"file", "c", 3}, {"file", "a", 1}, {"put", "c", 3}, {"file", "a", 3},
	} {
		c := f.c
		if step.what == "file" {
			c = restart(step.action)
		} else {
			f.define(c, "trip", step.action)
		}
		if got := versionOf(t, c, "trip"); got != step.want {
			t.Errorf("step %d, %s %s: new sagas have version %d, want %d", i, step.what, step.action, got, step.want)
		}
	}
}

// What a program stored that knows nothing of names can be used, in its latest
// version.
func TestADefinitionOfAnOlderProgramIsItsLatestVersion(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	for i, action := range []string{"a", "b"} {
		def := defined(t, "old", action)
		if _, err := f.pool.Exec(t.Context(), `INSERT INTO definition (name, version, digest, source, created_at) VALUES ('old', $1, $2, $3, now())`,
			i+1, def.Digest, def.Source); err != nil {
			t.Fatal(err)
		}
	}
	if got := versionOf(t, f.c, "old"); got != 2 {
		t.Errorf("new sagas have version %d", got)
	}
	if info, err := f.c.GetDefinition(t.Context(), "old"); err != nil || info.Current.Version != 2 {
		t.Errorf("it is shown as %+v: %v", info.Current, err)
	}
	if info, err := f.c.Deprecate(t.Context(), "old", coordinator.Operation{}); err != nil || info.DeprecatedAt == nil || info.Current.Version != 2 {
		t.Errorf("deprecated: %+v: %v", info, err)
	}
}

func TestADeprecatedDefinitionRefusesNewStartsOnly(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	key := &coordinator.IdempotencyKey{Route: "r", Key: "k"}
	request := coordinator.StartRequest{Definition: "order", Input: json.RawMessage(`{"n": 1}`), Key: key}
	first, err := f.c.Start(t.Context(), request)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.c.Deprecate(t.Context(), "order", coordinator.Operation{Actor: "ada", Reason: "enough"}); err != nil {
		t.Fatal(err)
	}
	if again, err := f.c.Start(t.Context(), request); err != nil || !again.Replayed || again.Saga.ID != first.Saga.ID {
		t.Errorf("P8: the repetition of a start from before: %+v, %v", again, err)
	}
	request.Key = nil
	for _, version := range []int{0, 1} {
		request.Version = version
		if _, err := f.c.Start(t.Context(), request); !errors.Is(err, coordinator.ErrDeprecated) {
			t.Errorf("a start of version %d: %v", version, err)
		}
	}
	for _, cmd := range f.commands() {
		f.answer(cmd, wire.Succeeded)
	}
	if got := f.get(first.Saga.ID); got.Steps[1].Status != saga.StepRunning {
		t.Errorf("the saga that runs: %s", got.Steps[1].Status)
	}
	f.coordinator(nil) // a server that is started with the same files
	if info, err := f.c.GetDefinition(t.Context(), "order"); err != nil || info.DeprecatedReason != "enough" {
		t.Errorf("after a restart: %+v, %v", info, err)
	}
	if _, err := f.c.Undeprecate(t.Context(), "order", coordinator.Operation{Actor: "ada"}); err != nil {
		t.Fatal(err)
	}
	f.start()
	log, _, err := f.c.AuditLog(t.Context(), coordinator.AuditFilter{Actor: "ada", Limit: 10})
	if err != nil || len(log) != 2 || log[1].Action != "deprecate" || log[1].Target != coordinator.TargetDefinition || log[1].TargetID != "order" || log[1].Reason != "enough" {
		t.Errorf("the audit log: %+v, %v", log, err)
	}
	if _, err := f.c.Deprecate(t.Context(), "nothing", coordinator.Operation{}); !errors.Is(err, coordinator.ErrNotFound) {
		t.Errorf("what is not there: %v", err)
	}
}

func TestTheOpenSagasOfEachVersionAreCounted(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.start()
	paused, done := f.start(), f.start()
	if _, err := f.c.Pause(t.Context(), paused.ID, coordinator.Operation{}); err != nil {
		t.Fatal(err)
	}
	if _, err := f.c.Cancel(t.Context(), done.ID, coordinator.Operation{}); err != nil {
		t.Fatal(err)
	}
	for _, cmd := range f.commands() {
		if strings.HasPrefix(cmd.EffectID.Saga, done.ID.String()) {
			f.answer(cmd, wire.Failed)
		}
	}
	if got := f.get(done.ID); got.Status != saga.Compensated {
		t.Fatalf("it is %s", got.Status)
	}
	f.define(f.c, "order", "other")
	f.start()
	// The paused saga's timer is used up: from now on it waits for no time.
	if _, err := f.pool.Exec(t.Context(), `WITH timer AS (DELETE FROM saga_timer WHERE saga_id = $1) UPDATE saga SET wake_at = NULL WHERE id = $1`, paused.ID); err != nil {
		t.Fatal(err)
	}
	versions, more, err := f.c.DefinitionVersions(t.Context(), "order", 0, 10)
	if err != nil || more {
		t.Fatal(more, err)
	}
	got := map[int]map[saga.Status]int{}
	for _, v := range versions {
		got[v.Version] = v.Open
	}
	if diff := cmp.Diff(map[int]map[saga.Status]int{1: {saga.Running: 2}, 2: {saga.Running: 1}}, got); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
}

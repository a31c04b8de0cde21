package main

import (
	"bytes"
	"encoding/json"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/skald-saga/skald/internal/outbox"
	"github.com/skald-saga/skald/internal/testkit"
)

// command runs a command in this process, which must end with status, and
// returns what it writes.
func command(t testing.TB, status int, args ...string) string {
	t.Helper()
	var stdout, stderr bytes.Buffer
	if code := run(t.Context(), args, &stdout, &stderr); code != status || strings.Count(stderr.String(), "\n") != min(1, status) {
		t.Errorf("%q: exit status %d, stderr %q", args, code, stderr.String())
	}
	return stdout.String() + stderr.String()
}

// P4: NATS has lost everything that it held. A rewind publishes again what was
// published since, while the relay runs.
func TestARewindRepairsABrokerThatLostItsMessages(t *testing.T) {
	t.Parallel()
	db, broker := testkit.DatabaseURL(t), testkit.NATS(t)
	pool, s := testkit.Pool(t, db), stream(t, broker.URL())
	start(t, db, broker.URL())
	var ids []string
	for range 700 {
		ids = append(ids, insert(t, pool, "k", "s.a"))
	}
	awaitIDs(t, s, ids...)
	broker.Halt()
	if err := broker.Wipe(); err != nil {
		t.Fatal(err)
	}
	if err := broker.Start(); err != nil {
		t.Fatal(err)
	}
	s = stream(t, broker.URL())
	answer := command(t, 0, "rewind", "--database-url", db, "--since", "1h")
	if !strings.Contains(answer, "lane 0: what was published since 20") || !strings.Contains(answer, "no longer kept") {
		t.Errorf("it wrote %q", answer)
	}
	ids = append(ids, insert(t, pool, "k", "s.a"))
	awaitIDs(t, s, ids...)
}

// The outbox is installed alone, into any database; twice is as good as once,
// and several at once do not meet.
func TestInstallMakesAnOutboxOnce(t *testing.T) {
	t.Parallel()
	db, broker := testkit.EmptyDatabaseURL(t), testkit.NATS(t).URL()
	if out := command(t, 2, "status", "--database-url", db); !strings.Contains(out, "relay install") {
		t.Errorf("without an outbox: %q", out)
	}
	var wg sync.WaitGroup
	var mu sync.Mutex
	made := 0
	for range 4 {
		wg.Go(func() {
			out := command(t, 0, "install", "--database-url", db)
			mu.Lock()
			defer mu.Unlock()
			if strings.Contains(out, "is installed") {
				made++
			}
		})
	}
	wg.Wait()
	if made != 1 {
		t.Errorf("%d of 4 installed it, want 1", made)
	}
	pool, s := testkit.Pool(t, db), stream(t, broker)
	if err := outbox.Check(t.Context(), pool); err != nil {
		t.Fatal(err)
	}
	var strangers int
	if err := pool.QueryRow(t.Context(), `SELECT count(*) FROM pg_tables WHERE schemaname = 'public' AND tablename !~ '^outbox'`).Scan(&strangers); err != nil || strangers != 0 {
		t.Errorf("%d other tables (%v)", strangers, err)
	}
	start(t, db, broker)
	awaitIDs(t, s, insert(t, pool, "k", "s.a"))
	if out := command(t, 0, "install", "--database-url", db); out != "the outbox was there already\n" {
		t.Errorf("again: %q", out)
	}
}

// The commands say how the outbox is and act on its dead letters.
func TestTheOutboxCanBeLookedAfter(t *testing.T) {
	t.Parallel()
	db := testkit.DatabaseURL(t)
	pool := testkit.Pool(t, db)
	insert(t, pool, "k", "s.a")
	with := func(args ...string) []string { return append(args, "--database-url", db) }
	var status outbox.Status
	if err := json.Unmarshal([]byte(command(t, 0, with("status", "--json")...)), &status); err != nil || len(status.Lanes) != 1 || status.Lanes[0].Backlog != 1 {
		t.Errorf("status: %+v (%v)", status, err)
	}
	if out := command(t, 0, with("status")...); !strings.Contains(out, "BACKLOG") || !strings.Contains(out, "is written") {
		t.Errorf("status:\n%s", out)
	}
	if _, err := pool.Exec(t.Context(), `INSERT INTO outbox_dead SELECT n, 0, 'k', gen_random_uuid(), 's.a', '{}', '', now(), E'too\nlarge' FROM generate_series(41, 43) AS n`); err != nil {
		t.Fatal(err)
	}
	if out := command(t, 0, with("dead-letters", "list", "--limit", "2")...); strings.Count(out, "\n") != 3 || !strings.Contains(out, `"too\nlarge"`) || strings.Contains(out, "41") {
		t.Errorf("list:\n%s", out)
	}
	if out := command(t, 0, with("dead-letters", "redrive", "42")...); out != "1 dead letter sent again\n" {
		t.Errorf("redrive: %q", out)
	}
	if out := command(t, 0, with("dead-letters", "purge", "--all", "--older-than", "1h")...); out != "0 dead letters deleted\n" {
		t.Errorf("purge the old: %q", out)
	}
	if out := command(t, 0, with("dead-letters", "purge", "--all")...); out != "2 dead letters deleted\n" {
		t.Errorf("purge: %q", out)
	}
	var letters []outbox.DeadLetter
	if err := json.Unmarshal([]byte(command(t, 0, with("dead-letters", "list", "--json")...)), &letters); err != nil || len(letters) != 0 {
		t.Errorf("list: %+v (%v)", letters, err)
	}
}

// A mistake in a command is one line and status 2; a database that is away is
// one line and status 1.
func TestMistakesInCommandsAreNamedInOneLine(t *testing.T) {
	t.Parallel()
	db := testkit.DatabaseURL(t)
	for name, c := range map[string]struct {
		want string
		args []string
	}{
		"no time":                  {"--since", []string{"rewind"}},
		"a time that is none":      {"--since", []string{"rewind", "--since", "yesterday"}},
		"a time to come":           {"--since", []string{"rewind", "--since=-1h"}},
		"no letters":               {"--all", []string{"dead-letters", "redrive"}},
		"some letters and all":     {"--all", []string{"dead-letters", "purge", "--all", "42"}},
		"a letter without number":  {"seq", []string{"dead-letters", "purge", "x"}},
		"a negative age":           {"--older-than", []string{"dead-letters", "purge", "--all", "--older-than=-1s"}},
		"none listed":              {"--limit", []string{"dead-letters", "list", "--limit", "0"}},
		"dead letters of no sort":  {"redrive", []string{"dead-letters"}},
		"install without database": {"--database-url", []string{"install", "--database-url="}},
	} {
		args := c.args
		if len(args) > 1 && args[0] != "install" {
			args = append(args, "--database-url", db)
		}
		if out := command(t, 2, args...); !strings.Contains(out, c.want) {
			t.Errorf("%s: %q, want %q", name, out, c.want)
		}
	}
	begun := time.Now()
	out := command(t, 1, "status", "--database-url", "postgres://user:secret@127.0.0.1:1/db")
	if strings.Contains(out, "secret") || time.Since(begun) > 20*time.Second {
		t.Errorf("after %s: %q", time.Since(begun), out)
	}
}

// P10: a message without a stream waits apart, with what follows of its key,
// and leaves in order when there is one; the others are not held up.
func TestAMissingStreamHoldsUpOnlyItsOwnMessages(t *testing.T) {
	t.Parallel()
	db, broker := testkit.DatabaseURL(t), testkit.NATS(t).URL()
	pool, s := testkit.Pool(t, db), stream(t, broker)
	early := insert(t, pool, "other", "s.early")
	later := insert(t, pool, "k", "later.1")
	behind := insert(t, pool, "k", "s.behind")
	start(t, db, broker)
	free := insert(t, pool, "free", "s.free")
	awaitIDs(t, s, early, free)
	parked := func(want int) {
		t.Helper()
		testkit.Eventually(t, "parked messages", 30*time.Second, func() (bool, string) {
			var s outbox.Status
			out := command(t, 0, "status", "--json", "--database-url", db)
			return json.Unmarshal([]byte(out), &s) == nil && len(s.Lanes) == 1 && s.Lanes[0].Parked == want, out
		})
	}
	parked(2)
	s = streamFor(t, broker, "s.>", "later.>")
	parked(0)
	awaitIDs(t, s, early, free, later, behind)
	m, err := s.GetLastMsgForSubject(t.Context(), "later.1")
	if err != nil {
		t.Fatal(err)
	}
	after, err := s.GetLastMsgForSubject(t.Context(), "s.behind")
	if err != nil || after.Sequence < m.Sequence {
		t.Errorf("the message behind it came first (%v)", err)
	}
}

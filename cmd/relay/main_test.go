package main

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/skald-saga/skald/internal/testkit"
	"github.com/skald-saga/skald/migrations"
)

// The program publishes what is committed, shows how it is, and ends cleanly
// when told to.
func TestTheRelayPublishesAndStopsCleanly(t *testing.T) {
	t.Parallel()
	for name, signal := range map[string]syscall.Signal{"on SIGTERM": syscall.SIGTERM, "on SIGINT": syscall.SIGINT} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			db, broker := testkit.DatabaseURL(t), testkit.NATS(t).URL()
			pool, s := testkit.Pool(t, db), stream(t, broker)
			before := insert(t, pool, "k", "s.before")
			p := start(t, db, broker)
			admin := p.admin(t)
			awaitReady(t, admin, 200, map[string]string{"database": "ok", "nats": "ok"})
			after := insert(t, pool, "k", "s.after")
			awaitIDs(t, s, before, after)
			if code, body := get(t, admin+"/livez"); code != 200 {
				t.Errorf("/livez: %d %s", code, body)
			}
			testkit.Eventually(t, "the metrics", 20*time.Second, func() (bool, string) {
				_, body := get(t, admin+"/metrics")
				return strings.Contains(body, `outbox_published_total{outcome="acknowledged"} 2`), body
			})
			if code := p.stop(t, signal); code != 0 {
				t.Errorf("exit status %d", code)
			}
			if out := p.stderr.String(); !strings.Contains(out, `"msg":"stopped"`) || len(p.stderr.plain()) > 0 {
				t.Errorf("it wrote:\n%s", out)
			}
		})
	}
}

// P9: kill -9 at random moments loses no message, and JetStream drops those
// that are published again.
func TestAKilledRelayLosesNothing(t *testing.T) {
	t.Parallel()
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	db, broker := testkit.DatabaseURL(t), testkit.NATS(t).URL()
	pool, s := testkit.Pool(t, db), stream(t, broker)
	var ids []string
	for range 8 {
		p := start(t, db, broker)
		p.admin(t)
		for range 20 + r.IntN(100) {
			ids = append(ids, insert(t, pool, string(rune('a'+r.IntN(5))), "s.a"))
		}
		p.kill()
		ids = append(ids, insert(t, pool, "a", "s.a")) // while there is none
	}
	p := start(t, db, broker)
	awaitIDs(t, s, ids...)
	if code := p.stop(t, syscall.SIGTERM); code != 0 {
		t.Errorf("exit status %d", code)
	}
}

// The relay starts before NATS, and publishes when NATS and the stream are
// there. Nothing becomes a dead letter meanwhile.
func TestTheRelayWaitsForNATS(t *testing.T) {
	t.Parallel()
	db, server := testkit.DatabaseURL(t), testkit.NATS(t)
	server.Halt()
	pool := testkit.Pool(t, db)
	id := insert(t, pool, "k", "s.a")
	p := start(t, db, server.URL())
	admin := p.admin(t)
	awaitReady(t, admin, 503, map[string]string{"database": "ok", "nats": "failing"})
	if code, _ := get(t, admin+"/livez"); code != 200 {
		t.Errorf("/livez: %d", code)
	}
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	awaitReady(t, admin, 200, map[string]string{"nats": "ok"})
	testkit.Eventually(t, "a failed pass: there is no stream yet", 20*time.Second, func() (bool, string) {
		_, body := get(t, admin+"/metrics")
		return !strings.Contains(body, "outbox_failed_passes_total 0"), body
	})
	s := stream(t, server.URL())
	awaitIDs(t, s, id)
	server.Halt()
	awaitReady(t, admin, 503, map[string]string{"nats": "failing"})
	later := insert(t, pool, "k", "s.b")
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	awaitIDs(t, s, id, later)
	var dead int
	if err := pool.QueryRow(t.Context(), `SELECT count(*) FROM outbox_dead`).Scan(&dead); err != nil || dead != 0 {
		t.Errorf("%d dead letters (%v)", dead, err)
	}
	if code := p.stop(t, syscall.SIGTERM); code != 0 {
		t.Errorf("exit status %d", code)
	}
}

// The relay starts before Postgres, and outlives its crashes.
func TestTheRelayWaitsForPostgres(t *testing.T) {
	t.Parallel()
	cluster, broker := testkit.Cluster(t), testkit.NATS(t).URL()
	db, s := cluster.URL("postgres"), stream(t, broker)
	if err := migrations.Up(t.Context(), db); err != nil {
		t.Fatal(err)
	}
	cluster.Kill()
	p := start(t, db, broker)
	admin := p.admin(t)
	awaitReady(t, admin, 503, map[string]string{"database": "failing", "nats": "ok"})
	var ids []string
	for range 3 {
		if err := cluster.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		ids = append(ids, insert(t, testkit.Pool(t, db), "k", "s.a"))
		awaitIDs(t, s, ids...)
		awaitReady(t, admin, 200, map[string]string{"database": "ok"})
		cluster.Kill()
		awaitReady(t, admin, 503, map[string]string{"database": "failing"})
		if code, _ := get(t, admin+"/livez"); code != 200 {
			t.Errorf("/livez: %d", code)
		}
	}
	if code := p.stop(t, syscall.SIGTERM); code != 0 { // there is nothing that it could wait for
		t.Errorf("exit status %d", code)
	}
}

// A stop that takes longer than it may ends all the same, and says so.
func TestAStopIsBounded(t *testing.T) {
	t.Parallel()
	db, broker := testkit.DatabaseURL(t), testkit.NATS(t).URL()
	nc, err := nats.Connect(broker)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	silent, err := nc.SubscribeSync("s.silent") // takes the message and acknowledges nothing
	if err != nil {
		t.Fatal(err)
	}
	insert(t, testkit.Pool(t, db), "k", "s.silent")
	p := start(t, db, broker, "--drain-timeout", "10ms")
	if _, err := silent.NextMsg(20 * time.Second); err != nil {
		t.Fatal(err)
	}
	if code := p.stop(t, syscall.SIGTERM); code != 1 {
		t.Errorf("exit status %d, want 1", code)
	}
	if lines := p.stderr.plain(); len(lines) != 1 || !strings.Contains(lines[0], "--drain-timeout") {
		t.Errorf("it wrote %q", lines)
	}
}

// When the client has given up its connection, which it does after an error that
// it cannot make sense of, only a new process helps: it must not stay and do
// nothing.
func TestAConnectionThatIsGivenUpEndsTheRelay(t *testing.T) {
	t.Parallel()
	p := start(t, testkit.DatabaseURL(t), fakeNATS(t, 1, "-ERR 'Something Else'"))
	if code := p.wait(t); code != 1 {
		t.Errorf("exit status %d, want 1", code)
	}
	if lines := p.stderr.plain(); len(lines) != 1 || !strings.Contains(lines[0], "closed for good") || !strings.Contains(lines[0], "Something Else") {
		t.Errorf("it wrote %q", lines)
	}
}

// Credentials that are refused, also twice in a row, may be accepted later.
func TestTheRelayOutlastsRefusedCredentials(t *testing.T) {
	t.Parallel()
	p := start(t, testkit.DatabaseURL(t), fakeNATS(t, 4, "-ERR 'Authorization Violation'"))
	awaitReady(t, p.admin(t), 200, map[string]string{"nats": "ok"})
}

// A database without an outbox is a mistake, which waiting does not mend.
func TestADatabaseWithoutAnOutboxIsRefused(t *testing.T) {
	t.Parallel()
	p := start(t, testkit.EmptyDatabaseURL(t), "nats://127.0.0.1:1")
	if code := p.wait(t); code != 2 {
		t.Errorf("exit status %d, want 2", code)
	}
	if lines := p.stderr.plain(); len(lines) != 1 || !strings.Contains(lines[0], "no table outbox;") {
		t.Errorf("it wrote %q", lines)
	}
}

// A usage or configuration error is one line that names the flag, and exit
// status 2; passwords are not repeated.
func TestMistakesAreNamedInOneLine(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = taken.Close() }()
	secret := filepath.Join(t.TempDir(), "url")
	if err := os.WriteFile(secret, []byte("not a URL"), 0o600); err != nil {
		t.Fatal(err)
	}
	const db = "postgres://user:secret@127.0.0.1:1/db"
	good := []string{"run", "--database-url", db, "--admin-addr", "127.0.0.1:0"}
	with := func(args ...string) []string { return append(good[:len(good):len(good)], args...) }
	for name, c := range map[string]struct {
		args []string
		env  map[string]string
		want string
	}{
		"no command":                       {args: nil, want: `"run"`},
		"an unknown command":               {args: []string{"walk"}, want: "walk"},
		"an unknown flag":                  {args: with("--quick"), want: "--quick"},
		"no database":                      {args: []string{"run"}, want: "--database-url (DATABASE_URL)"},
		"a database of another kind":       {args: []string{"run", "--database-url", "mysql://user:secret@h/db"}, want: "--database-url"},
		"a database URL with a bad port":   {args: []string{"run", "--database-url", "postgres://user:secret@h:port/db"}, want: "--database-url"},
		"the database from the variable":   {args: []string{"run"}, env: map[string]string{"DATABASE_URL": "secret"}, want: "--database-url"},
		"the database twice":               {args: with("--database-url-file", secret), want: "--database-url-file"},
		"a file that is not there":         {args: []string{"run", "--database-url-file", secret + "x"}, want: "--database-url-file"},
		"a file with something else":       {args: []string{"run", "--database-url-file", secret}, want: "--database-url"},
		"a NATS URL of another kind":       {args: with("--nats-url", "http://user:secret@h"), want: "--nats-url"},
		"a NATS URL with a bad port":       {args: with("--nats-url", "nats://user:secret@h:port"), want: "--nats-url"},
		"an empty NATS URL":                {args: with("--nats-url", ""), want: "--nats-url"},
		"a second NATS URL that is bad":    {args: with("--nats-url", "nats://h:1,nats://"), want: "--nats-url"},
		"a user without a password":        {args: with("--nats-user", "relay"), want: "--nats-password-file"},
		"two ways to say who we are":       {args: with("--nats-url", "nats://user:secret@h", "--nats-token-file", secret), want: "--nats-token-file"},
		"a token file that is not there":   {args: with("--nats-token-file", secret+"x"), want: "--nats-token-file"},
		"a seed that is none":              {args: with("--nats-nkey-file", secret), want: "--nats-nkey-file"},
		"credentials that are none":        {args: with(), env: map[string]string{"NATS_CREDS_FILE": secret}, want: "--nats-creds-file"},
		"an authority without certificate": {args: with("--nats-tls-ca", secret), want: "--nats-tls-ca"},
		"a certificate without its key":    {args: with("--nats-tls-cert", secret), want: "--nats-tls-key"},
		"a certificate that is none":       {args: with("--nats-tls-cert", secret, "--nats-tls-key", secret), want: "--nats-tls-cert"},
		"a prefix that is no subject":      {args: with("--prefix", "a..b"), want: "--prefix"},
		"a prefix with a wildcard":         {args: with(), env: map[string]string{"SKALD_PREFIX": "*"}, want: "--prefix"},
		"a taken port":                     {args: with("--admin-addr", taken.Addr().String()), want: "--admin-addr"},
		"an address without a port":        {args: with("--admin-addr", "localhost"), want: "--admin-addr"},
		"a log format that there is not":   {args: with("--log-format", "xml"), want: "--log-format"},
		"a log level that there is not":    {args: with("--log-level", "loud"), want: "--log-level"},
		"a time that is none":              {args: with("--drain-timeout", "soon"), want: "--drain-timeout"},
		"rows kept for no time":            {args: with("--retain", "0s"), want: "--retain"},
		"a negative time":                  {args: with("--drain-timeout=-1s"), want: "--drain-timeout"},
		"a variable with a time not a one": {args: with(), env: map[string]string{"SKALD_DRAIN_TIMEOUT": "5"}, want: "SKALD_DRAIN_TIMEOUT"},
	} {
		t.Run(name, func(t *testing.T) {
			for _, name := range []string{"DATABASE_URL", "DATABASE_URL_FILE", "NATS_URL", "NATS_CREDS_FILE", "SKALD_PREFIX", "SKALD_DRAIN_TIMEOUT"} {
				t.Setenv(name, "")
				if v, ok := c.env[name]; ok {
					t.Setenv(name, v)
				} else if err := os.Unsetenv(name); err != nil {
					t.Fatal(err)
				}
			}
			ctx, cancel := context.WithTimeoutCause(t.Context(), 10*time.Second, errors.New("it runs"))
			defer cancel()
			var stdout, stderr bytes.Buffer
			code := run(ctx, c.args, &stdout, &stderr)
			line, rest, _ := strings.Cut(stderr.String(), "\n")
			if code != 2 || ctx.Err() != nil || !strings.HasPrefix(line, "relay: ") || !strings.Contains(line, c.want) || rest != "" {
				t.Errorf("exit status %d, stderr %q; want 2 and one line with %q", code, stderr.String(), c.want)
			}
			if out := stdout.String() + stderr.String(); strings.Contains(out, "secret@") || strings.Contains(out, ":secret") {
				t.Errorf("it repeats a password: %s", out)
			}
		})
	}
}

// What is asked for is answered on standard output, with exit status 0.
func TestVersionAndHelp(t *testing.T) {
	t.Parallel()
	for want, args := range map[string][]string{
		"skald (":                  {"version"},
		"SKALD_RELAY_ADMIN_ADDR":   {"run", "--help"},
		"Publish the outbox until": {"--help"},
	} {
		var stdout, stderr bytes.Buffer
		if code := run(t.Context(), args, &stdout, &stderr); code != 0 || !strings.Contains(stdout.String(), want) || stderr.Len() > 0 {
			t.Errorf("%v: exit status %d, stdout %q, stderr %q", args, code, stdout.String(), stderr.String())
		}
	}
}

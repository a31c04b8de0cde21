package main

import (
	"os"
	"strings"
	"syscall"
	"testing"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/skald-saga/skald/internal/testkit"
)

// The relay reaches a Postgres whose certificate it checks, and none that
// somebody else vouches for.
func TestTheRelayChecksWhoPostgresIs(t *testing.T) {
	t.Parallel()
	ca, other := testkit.NewAuthority(t), testkit.NewAuthority(t)
	plain := testkit.Cluster(t).URL("postgres")
	pool := testkit.Pool(t, plain)
	encrypt(t, pool, ca)
	verified := func(by *testkit.Authority) string {
		return strings.Replace(plain, "sslmode=disable", "sslmode=verify-full&sslrootcert="+by.CA, 1)
	}
	broker := testkit.NATS(t)
	s := stream(t, broker.URL())
	command(t, 1, "status", "--database-url", verified(other))
	command(t, 0, "install", "--database-url", verified(ca))

	p := start(t, verified(ca), broker.URL())
	awaitIDs(t, s, insert(t, pool, "k", "s.a"))
	var encrypted bool
	const q = `SELECT bool_and(ssl) FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) WHERE application_name = 'skald-relay'`
	if err := pool.QueryRow(t.Context(), q).Scan(&encrypted); err != nil || !encrypted {
		t.Errorf("encrypted: %t, %v", encrypted, err)
	}
	if code := p.stop(t, syscall.SIGTERM); code != 0 {
		t.Errorf("exit status %d", code)
	}

	p = start(t, verified(other), broker.URL())
	awaitReady(t, p.admin(t), 503, map[string]string{"database": "failing", "nats": "ok"})
}

// encrypt gives a cluster a certificate. The server writes the files itself: it
// may be another user, who could not read ours.
func encrypt(t testing.TB, pool *pgxpool.Pool, ca *testkit.Authority) {
	t.Helper()
	cert, key := ca.Issue(t, "postgres")
	for _, f := range []struct{ name, path string }{{"server.crt", cert}, {"server.key", key}} {
		pem, err := os.ReadFile(f.path)
		if err != nil {
			t.Fatal(err)
		}
		lines := "'" + strings.ReplaceAll(strings.TrimSpace(string(pem)), "\n", "', '") + "'"
		q := `COPY (SELECT unnest(ARRAY[` + lines + `])) TO PROGRAM 'umask 077; cat > ` + f.name + `'`
		if _, err := pool.Exec(t.Context(), q); err != nil {
			t.Fatal(err)
		}
	}
	for _, q := range []string{`ALTER SYSTEM SET ssl = on`, `SELECT pg_reload_conf()`} {
		if _, err := pool.Exec(t.Context(), q); err != nil {
			t.Fatal(err)
		}
	}
}

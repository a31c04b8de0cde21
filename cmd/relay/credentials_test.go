package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nkeys"

	"github.com/skald-saga/skald/internal/bus"
	"github.com/skald-saga/skald/internal/embedded"
	"github.com/skald-saga/skald/internal/program"
	"github.com/skald-saga/skald/internal/testkit"
)

// guarded is a NATS that asks who we are.
type guarded struct {
	config string   // of the server
	args   []string // of the relay
	program.NATSCredentials
	secrets []string                   // what must not be in the log
	revoke  func(*embedded.NATS) error // makes the server refuse us
	mend    func(*embedded.NATS) error
}

// The relay shows NATS who it is, in each of the ways that there are. When it is
// refused later - revoked, expired - it says so, waits, and goes on when it is
// accepted again; a renewed secret needs no restart.
func TestTheRelayShowsWhoItIs(t *testing.T) {
	t.Parallel()
	for name, prepare := range map[string]func(testing.TB) guarded{
		"a user and a password": withPassword, "a token": withToken, "an nkey": withNkey,
		"a JWT that expires": withCreds, "a certificate": withCertificate,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g := prepare(t)
			server := testkit.NATSWith(t, embedded.NATSConfig{Config: g.config})
			options, err := g.Options(server.URL())
			if err != nil {
				t.Fatal(err)
			}
			nc, err := bus.Connect(server.URL(), "test", testkit.Log(t), options...)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(nc.Close)
			js, err := jetstream.New(nc)
			if err != nil {
				t.Fatal(err)
			}
			s, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "S", Subjects: []string{"s.>"}})
			if err != nil {
				t.Fatal(err)
			}
			db := testkit.DatabaseURL(t)
			pool := testkit.Pool(t, db)
			p := start(t, db, server.URL(), g.args...)
			admin := p.admin(t)
			awaitReady(t, admin, 200, map[string]string{"nats": "ok"})
			first := insert(t, pool, "k", "s.first")
			awaitIDs(t, s, first)
			if err := g.revoke(server); err != nil {
				t.Fatal(err)
			}
			awaitReady(t, admin, 503, map[string]string{"nats": "failing", "database": "ok"})
			later := insert(t, pool, "k", "s.later")
			testkit.Eventually(t, "it says so", 20*time.Second, func() (bool, string) {
				return strings.Contains(p.stderr.String(), `"msg":"waiting for NATS"`), p.stderr.String()
			})
			if err := g.mend(server); err != nil {
				t.Fatal(err)
			}
			awaitReady(t, admin, 200, map[string]string{"nats": "ok"})
			testkit.Eventually(t, "we are connected too", 20*time.Second, func() (bool, string) { return nc.IsConnected(), "" })
			awaitIDs(t, s, first, later)
			if code := p.stop(t, syscall.SIGTERM); code != 0 {
				t.Errorf("exit status %d", code)
			}
			for _, secret := range g.secrets {
				if strings.Contains(p.stderr.String(), secret) {
					t.Errorf("the log holds the secret %q", secret)
				}
			}
		})
	}
}

func secretFile(t testing.TB, name, secret string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(secret+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func withPassword(t testing.TB) guarded {
	file := secretFile(t, "password", "first-secret")
	config := func(password string) string {
		return fmt.Sprintf("authorization {user: relay, password: %q}", password)
	}
	return guarded{
		config: config("first-secret"), args: []string{"--nats-user", "relay", "--nats-password-file", file},
		NATSCredentials: program.NATSCredentials{NATSUser: "relay", NATSPasswordFile: file},
		secrets:         []string{"first-secret", "second-secret"},
		revoke:          func(s *embedded.NATS) error { return s.Reconfigure(config("second-secret")) },
		mend:            func(*embedded.NATS) error { return os.WriteFile(file, []byte("second-secret"), 0o600) },
	}
}

func withToken(t testing.TB) guarded {
	file := secretFile(t, "token", "first-secret")
	config := func(token string) string { return fmt.Sprintf("authorization {token: %q}", token) }
	return guarded{
		config: config("first-secret"), args: []string{"--nats-token-file", file},
		NATSCredentials: program.NATSCredentials{NATSTokenFile: file},
		secrets:         []string{"first-secret", "second-secret"},
		revoke:          func(s *embedded.NATS) error { return s.Reconfigure(config("second-secret")) },
		mend:            func(*embedded.NATS) error { return os.WriteFile(file, []byte("second-secret"), 0o600) },
	}
}

func withNkey(t testing.TB) guarded {
	ours, seed := keyPair(t, nkeys.CreateUser)
	other, _ := keyPair(t, nkeys.CreateUser)
	file := secretFile(t, "nkey", seed)
	config := func(key string) string { return fmt.Sprintf("authorization {users: [{nkey: %s}]}", key) }
	return guarded{
		config: config(ours), args: []string{"--nats-nkey-file", file},
		NATSCredentials: program.NATSCredentials{NATSNkeyFile: file}, secrets: []string{seed},
		revoke: func(s *embedded.NATS) error { return s.Reconfigure(config(other)) },
		mend:   func(s *embedded.NATS) error { return s.Reconfigure(config(ours)) },
	}
}

// withCreds makes an operator, two accounts and a user, who expires after a few
// seconds.
func withCreds(t testing.TB) guarded {
	operator, operatorSeed := keyPair(t, nkeys.CreateOperator)
	account, accountSeed := keyPair(t, nkeys.CreateAccount)
	system, _ := keyPair(t, nkeys.CreateAccount)
	user, userSeed := keyPair(t, nkeys.CreateUser)
	mine := jwt.NewAccountClaims(account)
	mine.Limits.JetStreamLimits = jwt.JetStreamLimits{MemoryStorage: -1, DiskStorage: -1, Streams: -1, Consumer: -1}
	config := fmt.Sprintf("operator: %s\nsystem_account: %s\nresolver: MEMORY\nresolver_preload: {%s: %s, %s: %s}",
		encode(t, jwt.NewOperatorClaims(operator), operatorSeed), system,
		account, encode(t, mine, operatorSeed), system, encode(t, jwt.NewAccountClaims(system), operatorSeed))
	creds := func(valid time.Duration) []byte {
		claims := jwt.NewUserClaims(user)
		claims.Expires = time.Now().Add(valid).Unix()
		b, err := jwt.FormatUserConfig(encode(t, claims, accountSeed), []byte(userSeed))
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	file := secretFile(t, "relay.creds", string(creds(time.Hour)))
	return guarded{
		config: config, args: []string{"--nats-creds-file", file},
		NATSCredentials: program.NATSCredentials{NATSCredsFile: file}, secrets: []string{userSeed},
		revoke: func(s *embedded.NATS) error {
			if err := os.WriteFile(file, creds(time.Second), 0o600); err != nil {
				return err
			}
			s.Halt() // it comes back to somebody whose time is about to be over
			return s.Start()
		},
		mend: func(*embedded.NATS) error { return os.WriteFile(file, creds(time.Hour), 0o600) },
	}
}

func withCertificate(t testing.TB) guarded {
	ca, other := testkit.NewAuthority(t), testkit.NewAuthority(t)
	cert, key := ca.Issue(t, "server")
	config := func(trusted string) string {
		return fmt.Sprintf("tls {cert_file: %q, key_file: %q, ca_file: %q, verify: true}", cert, key, trusted)
	}
	ourCert, ourKey := ca.Issue(t, "relay")
	return guarded{
		config: config(ca.CA), args: []string{"--nats-tls-ca", ca.CA, "--nats-tls-cert", ourCert, "--nats-tls-key", ourKey},
		NATSCredentials: program.NATSCredentials{NATSTLSCA: ca.CA, NATSTLSCert: ourCert, NATSTLSKey: ourKey},
		revoke: func(s *embedded.NATS) error {
			s.Halt()
			if err := s.Start(); err != nil {
				return err
			}
			return s.Reconfigure(config(other.CA))
		},
		mend: func(s *embedded.NATS) error { return s.Reconfigure(config(ca.CA)) },
	}
}

func keyPair(t testing.TB, create func() (nkeys.KeyPair, error)) (public, seed string) {
	t.Helper()
	pair, err := create()
	if err != nil {
		t.Fatal(err)
	}
	public, err = pair.PublicKey()
	if err != nil {
		t.Fatal(err)
	}
	b, err := pair.Seed()
	if err != nil {
		t.Fatal(err)
	}
	return public, string(b)
}

func encode(t testing.TB, claims jwt.Claims, seed string) string {
	t.Helper()
	pair, err := nkeys.FromSeed([]byte(seed))
	if err != nil {
		t.Fatal(err)
	}
	text, err := claims.Encode(pair)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

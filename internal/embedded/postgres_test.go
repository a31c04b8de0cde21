package embedded_test

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/skald-saga/skald/internal/embedded"
)

func TestAClusterAnswersAtItsURL(t *testing.T) {
	t.Parallel()
	p := start(t, embedded.PostgresConfig{Params: map[string]string{"work_mem": "5MB"}})
	if got := query[string](t, p.URL("postgres"), `SHOW work_mem`); got != "5MB" {
		t.Errorf("work_mem is %s, want what was asked for", got)
	}
	for range 2 { // the second time it is there
		if err := embedded.CreateDatabase(t.Context(), p.URL("postgres"), "shop"); err != nil {
			t.Fatal(err)
		}
	}
	url, err := embedded.DatabaseURL(p.URL("postgres"), "shop")
	if err != nil {
		t.Fatal(err)
	}
	if got := query[string](t, url, `SELECT current_database()`); got != "shop" {
		t.Errorf("%q answers, want shop", got)
	}
}

func TestAClusterRefusesThoseWithoutItsPassword(t *testing.T) {
	t.Parallel()
	p := start(t, embedded.PostgresConfig{})
	url := p.URL("postgres")
	_, after, _ := strings.Cut(url, "@")
	if err := embedded.CreateDatabase(t.Context(), "postgres://skald:guess@"+after, "mine"); err == nil {
		t.Error("a guessed password was accepted")
	}
	if query[bool](t, url, `SELECT EXISTS (SELECT FROM pg_database WHERE datname = 'mine')`) {
		t.Error("a stranger made a database")
	}
}

// Data that somebody wants to keep survives a power cut; throw-away data does
// not pay for that.
func TestOnlyADurableClusterSyncs(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name    string
		durable bool
		want    string
	}{{"durable", true, "on"}, {"throw-away", false, "off"}} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			p := start(t, embedded.PostgresConfig{Durable: c.durable})
			for _, setting := range []string{"fsync", "full_page_writes"} {
				if got := query[string](t, p.URL("postgres"), `SELECT current_setting($1)`, setting); got != c.want {
					t.Errorf("%s is %s, want %s", setting, got, c.want)
				}
			}
			if got := query[string](t, p.URL("postgres"), `SHOW synchronous_commit`); got != "on" {
				t.Errorf("synchronous_commit is %s, want on", got)
			}
		})
	}
}

func TestATakenAddressIsNamed(t *testing.T) {
	temp := folder(t)
	t.Setenv("TMPDIR", temp)
	ln, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = ln.Close() }()
	addr := ln.Addr().String()
	for name, start := range map[string]func() error{
		"Postgres": func() error {
			_, err := embedded.StartPostgres(t.Context(), embedded.PostgresConfig{Addr: addr})
			return err
		},
		"NATS": func() error {
			_, err := embedded.StartNATS(embedded.NATSConfig{Addr: addr})
			return err
		},
		"only a look": func() error { return embedded.CheckAddr(addr) },
	} {
		t.Run(name, func(t *testing.T) {
			err := start()
			var taken *embedded.AddrInUseError
			if !errors.As(err, &taken) || taken.Addr != addr {
				t.Fatalf("got %v, want an AddrInUseError for %s", err, addr)
			}
			if want := "address " + addr + " is in use"; err.Error() != want {
				t.Errorf("it says %q, want %q", err, want)
			}
		})
	}
	empty(t, temp)
}

func TestAFreeAddressIsFree(t *testing.T) {
	t.Parallel()
	if err := embedded.CheckAddr("127.0.0.1:0"); err != nil {
		t.Error(err)
	}
}

func TestAnAddressThatIsNoneIsAnError(t *testing.T) {
	t.Parallel()
	for _, addr := range []string{"127.0.0.1", "127.0.0.1:many", "127.0.0.1:99999"} {
		if _, err := embedded.StartPostgres(t.Context(), embedded.PostgresConfig{Addr: addr}); err == nil {
			t.Errorf("a cluster started on %q", addr)
		}
		if _, err := embedded.StartNATS(embedded.NATSConfig{Addr: addr}); err == nil {
			t.Errorf("a NATS started on %q", addr)
		}
	}
}

func TestStoppingLeavesNoFiles(t *testing.T) {
	temp := folder(t)
	t.Setenv("TMPDIR", temp)
	p, err := embedded.StartPostgres(t.Context(), embedded.PostgresConfig{})
	if err != nil {
		t.Fatal(err)
	}
	if data := query[string](t, p.URL("postgres"), `SHOW data_directory`); !strings.HasPrefix(data, temp+string(filepath.Separator)) {
		t.Fatalf("the data is in %s, want it in %s", data, temp)
	}
	for range 2 { // the second time does no harm
		if err := p.Stop(); err != nil {
			t.Fatal(err)
		}
	}
	empty(t, temp)
}

func TestAStartThatIsGivenUpLeavesNoFiles(t *testing.T) {
	temp := folder(t)
	t.Setenv("TMPDIR", temp)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := embedded.StartPostgres(ctx, embedded.PostgresConfig{}); err == nil {
		t.Fatal("it started all the same")
	}
	empty(t, temp)
}

func TestASettingThatPostgresRefusesIsNamed(t *testing.T) {
	temp := folder(t)
	t.Setenv("TMPDIR", temp)
	_, err := embedded.StartPostgres(t.Context(), embedded.PostgresConfig{Params: map[string]string{"work_mem": "plenty"}})
	if err == nil || !strings.Contains(err.Error(), "work_mem") {
		t.Errorf("got %v, want what Postgres says about work_mem", err)
	}
	empty(t, temp)
}

func TestAClusterComesBackWithWhatWasCommitted(t *testing.T) {
	t.Parallel()
	dir := folder(t)
	first, err := embedded.StartPostgres(t.Context(), embedded.PostgresConfig{Dir: dir, Durable: true})
	if err != nil {
		t.Fatal(err)
	}
	url := first.URL("postgres")
	if err := embedded.CreateDatabase(t.Context(), url, "kept"); err != nil {
		t.Fatal(err)
	}
	first.Kill()
	if err := embedded.CreateDatabase(t.Context(), url, "refused"); err == nil {
		t.Fatal("a killed cluster answers")
	}
	if err := first.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if !query[bool](t, url, `SELECT EXISTS (SELECT FROM pg_database WHERE datname = 'kept')`) {
		t.Error("a crash lost what was committed")
	}
	if err := first.Stop(); err != nil {
		t.Fatal(err)
	}
	second := start(t, embedded.PostgresConfig{Dir: dir, Durable: true})
	if !query[bool](t, second.URL("postgres"), `SELECT EXISTS (SELECT FROM pg_database WHERE datname = 'kept')`) {
		t.Error("a stop lost what was committed")
	}
}

func TestAFolderInUseIsRefused(t *testing.T) {
	t.Parallel()
	dir := folder(t)
	p := start(t, embedded.PostgresConfig{Dir: dir})
	before := query[string](t, p.URL("postgres"), `SELECT pg_postmaster_start_time()::text`)
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond) // it would wait longer for one that is stopping
	defer cancel()
	_, err := embedded.StartPostgres(ctx, embedded.PostgresConfig{Dir: dir})
	if err == nil || !strings.Contains(err.Error(), dir+" is in use by process ") {
		t.Errorf("got %v, want it to say that %s is in use and by which process", err, dir)
	}
	if after := query[string](t, p.URL("postgres"), `SELECT pg_postmaster_start_time()::text`); after != before {
		t.Error("the cluster was disturbed")
	}
}

// Run by root, Postgres is another user, who cannot enter every folder.
func TestAFolderThatPostgresCannotEnterIsNamed(t *testing.T) {
	t.Parallel()
	dir := folder(t)
	if err := os.Chmod(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	p, err := embedded.StartPostgres(t.Context(), embedded.PostgresConfig{Dir: dir})
	if os.Geteuid() != 0 {
		if err != nil {
			t.Fatal(err)
		}
		if err := p.Stop(); err != nil {
			t.Error(err)
		}
		return
	}
	if err == nil || !strings.HasPrefix(err.Error(), dir+" cannot be entered") {
		t.Errorf("got %v, want it to name %s", err, dir)
	}
}

func TestAClusterWithoutItsPasswordIsAnError(t *testing.T) {
	t.Parallel()
	dir := folder(t)
	p := start(t, embedded.PostgresConfig{Dir: dir})
	if err := p.Stop(); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(dir, "password")); err != nil {
		t.Fatal(err)
	}
	_, err := embedded.StartPostgres(t.Context(), embedded.PostgresConfig{Dir: dir})
	if err == nil || !strings.Contains(err.Error(), "password of the cluster in "+dir) {
		t.Errorf("got %v, want it to say what is missing in %s", err, dir)
	}
}

package bench

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/nats-io/nats.go"

	"github.com/skald-saga/skald/internal/embedded"
	"github.com/skald-saga/skald/migrations"
)

// machine is what the systems under load have in common: a Postgres and a
// JetStream, durable, and the programs.
type machine struct {
	cfg      Config
	dir      string
	relay    string // the relay's program
	postgres *embedded.Postgres
	admin    *pgxpool.Pool // on a database that nobody works in
	queue    *child        // NATS
	natsURL  string
	sync     string
	exact    bool // statements are counted one by one, by pg_stat_statements
	systems  []*system
}

// boot starts the machine. What it starts, close stops.
func boot(ctx context.Context, cfg Config) (*machine, error) {
	m := &machine{cfg: cfg}
	if err := m.boot(ctx); err != nil {
		return nil, errors.Join(err, m.close())
	}
	return m, nil
}

func (m *machine) boot(ctx context.Context) (err error) {
	embedded.SweepStale() // a bench that was killed leaves its folder; this one's name says whose it is
	if m.dir, err = os.MkdirTemp("", fmt.Sprintf("skald-%d-bench-", os.Getpid())); err != nil {
		return err
	}
	if err = os.Chmod(m.dir, 0o755); err != nil { //nolint:gosec // Postgres may run as another user
		return err
	}
	if m.relay, err = findRelay(ctx, m.cfg, m.dir); err != nil {
		return err
	}
	if err = m.startPostgres(ctx); err != nil {
		return err
	}
	var s started
	if m.queue, err = m.part(ctx, roleNATS, Job{Kind: "nats", Dir: filepath.Join(m.dir, "nats")}, &s); err != nil {
		return err
	}
	m.natsURL, m.sync = s.URL, s.Sync
	return nil
}

// ErrNoRelay says what to do if there is no relay to measure.
var ErrNoRelay = errors.New("the relay's program is not beside this one, and cannot be built here: say where it is")

// findRelay returns the program that the configuration names, the one beside
// the server's, or one that it builds.
func findRelay(ctx context.Context, cfg Config, dir string) (string, error) {
	beside := filepath.Join(filepath.Dir(cfg.Server), "relay")
	for _, path := range []string{cfg.Relay, beside} {
		if info, err := os.Stat(path); path != "" && err == nil && !info.IsDir() {
			return path, nil
		}
	}
	if cfg.Relay != "" {
		return "", fmt.Errorf("%w: there is no %s", ErrNoRelay, cfg.Relay)
	}
	path := filepath.Join(dir, "relay")
	out, err := exec.CommandContext(ctx, "go", "build", "-o", path, "github.com/skald-saga/skald/cmd/relay").CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("%w (%w: %s)", ErrNoRelay, err, strings.TrimSpace(string(out)))
	}
	return path, nil
}

// startPostgres starts a durable cluster that counts statements, if the
// extension for it is installed.
func (m *machine) startPostgres(ctx context.Context) (err error) {
	m.postgres, err = embedded.StartPostgres(ctx, embedded.PostgresConfig{Dir: filepath.Join(m.dir, "postgres"), Durable: true})
	if err != nil {
		return err
	}
	url := m.postgres.URL("postgres")
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		return err
	}
	err = conn.QueryRow(ctx, `SELECT EXISTS (SELECT FROM pg_available_extensions WHERE name = 'pg_stat_statements')`).Scan(&m.exact)
	if err == nil && m.exact {
		_, err = conn.Exec(ctx, `ALTER SYSTEM SET shared_preload_libraries = 'pg_stat_statements'`)
	}
	if err = errors.Join(err, conn.Close(ctx)); err != nil {
		return err
	}
	if m.exact {
		if err := m.postgres.Stop(); err != nil {
			return err
		}
		if err := m.postgres.Start(ctx); err != nil {
			return err
		}
	}
	if m.admin, err = pgxpool.New(ctx, url); err != nil {
		return err
	}
	if m.exact {
		_, err = m.admin.Exec(ctx, `CREATE EXTENSION pg_stat_statements`)
	}
	return err
}

// part starts one of our own parts in a process of its own.
func (m *machine) part(ctx context.Context, role string, job Job, s *started) (*child, error) {
	return spawn(ctx, role, job, func(line []byte) bool { return json.Unmarshal(line, s) == nil && s.Ready }, m.cfg.Server, "bench", "--part")
}

// database makes a database and returns its URL.
func (m *machine) database(ctx context.Context, name string) (string, error) {
	return m.postgres.URL(name), embedded.CreateDatabase(ctx, m.postgres.URL("postgres"), name)
}

// check returns an error if something has ended that should not have.
func (m *machine) check() error {
	errs := []error{m.queue.check()}
	for _, s := range m.systems {
		for _, c := range s.children() {
			errs = append(errs, c.check())
		}
	}
	return errors.Join(errs...)
}

func (m *machine) close() error {
	var errs []error
	for _, s := range slices.Backward(m.systems) {
		errs = append(errs, s.stop())
	}
	if m.queue != nil {
		errs = append(errs, m.queue.stop())
	}
	if m.admin != nil {
		m.admin.Close()
	}
	if m.postgres != nil {
		errs = append(errs, m.postgres.Stop())
	}
	if m.dir != "" {
		errs = append(errs, os.RemoveAll(m.dir))
	}
	return errors.Join(errs...)
}

// system is Skald under load: servers, a relay and participants on a database
// and a prefix of their own.
type system struct {
	*machine
	name         string // of the database, and the prefix
	url          string
	servers      []*child
	addrs        []string // of the servers' APIs
	relayProc    *child
	participants *child
	number       atomic.Int64 // sagas started, ever
}

// startSystem starts a system whose participants are of a kind. definitions
// may be empty: the built-in ones.
func (m *machine) startSystem(ctx context.Context, name, participants, definitions string, services []string) (*system, error) {
	s := &system{machine: m, name: name}
	m.systems = append(m.systems, s)
	var err error
	if s.url, err = m.database(ctx, name); err != nil {
		return nil, err
	}
	if err := migrations.Up(ctx, s.url); err != nil {
		return nil, err
	}
	if err := s.addServer(ctx, definitions); err != nil {
		return nil, err
	}
	args := []string{"run", "--database-url", s.url, "--nats-url", m.natsURL, "--prefix", name, "--admin-addr", ""}
	var line struct{}
	if s.relayProc, err = spawn(ctx, roleRelay, nil, logged("publishing the outbox", &line), m.relay, args...); err != nil {
		return nil, err
	}
	job := Job{Kind: participants, NATS: m.natsURL, Prefix: name, Services: services}
	if participants == "shop" {
		if job.Database, err = m.database(ctx, name+"_participants"); err != nil {
			return nil, err
		}
	}
	s.participants, err = m.part(ctx, roleParticipants, job, &started{})
	return s, err
}

// addServer starts one more server.
func (s *system) addServer(ctx context.Context, definitions string) error {
	args := []string{"serve", "--database-url", s.url, "--nats-url", s.natsURL, "--prefix", s.name, "--http-addr", "127.0.0.1:0", "--admin-addr", ""}
	if definitions != "" {
		args = append(args, "--definitions", definitions)
	}
	var line struct{ HTTP string }
	c, err := spawn(ctx, roleServer, nil, logged("serving", &line), s.cfg.Server, args...)
	if err != nil {
		return err
	}
	s.servers, s.addrs = append(s.servers, c), append(s.addrs, line.HTTP)
	return nil
}

func (s *system) children() []*child {
	all := slices.Clone(s.servers)
	for _, c := range []*child{s.relayProc, s.participants} {
		if c != nil {
			all = append(all, c)
		}
	}
	return all
}

// stop stops the servers first, and those that answer them last.
func (s *system) stop() error {
	var errs []error
	for _, c := range s.children() {
		errs = append(errs, c.stop())
	}
	s.servers, s.relayProc, s.participants = nil, nil, nil
	s.machine.systems = slices.DeleteFunc(s.machine.systems, func(other *system) bool { return other == s })
	return errors.Join(errs...)
}

// settings describes the machine, and asks the servers how they are set.
func (m *machine) settings(ctx context.Context, r *Report) error {
	r.Machine = Machine{CPUs: runtime.NumCPU(), CPU: cpuModel(), OS: runtime.GOOS, Arch: runtime.GOARCH, Go: runtime.Version()}
	const q = `SELECT current_setting('server_version'), current_setting('fsync'), current_setting('synchronous_commit'),
		current_setting('wal_sync_method'), current_setting('full_page_writes'), current_setting('shared_buffers')`
	s := &r.Settings
	err := m.admin.QueryRow(ctx, q).Scan(&s.Postgres, &s.Fsync, &s.SynchronousCommit, &s.WALSyncMethod, &s.FullPageWrites, &s.SharedBuffers)
	if err != nil {
		return fmt.Errorf("read settings: %w", err)
	}
	nc, err := nats.Connect(m.natsURL)
	if err != nil {
		return err
	}
	defer nc.Close()
	s.NATS, s.JetStreamSync, s.Statements = nc.ConnectedServerVersion(), m.sync, "pg_stat_statements"
	if !m.exact {
		s.Statements = "pg_stat_database: transactions, for want of pg_stat_statements"
	}
	return nil
}

// cpuModel is empty where there is no /proc.
func cpuModel() string {
	f, err := os.Open("/proc/cpuinfo")
	if err != nil {
		return ""
	}
	defer func() { _ = f.Close() }()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if name, value, ok := strings.Cut(lines.Text(), ":"); ok && strings.TrimSpace(name) == "model name" {
			return strings.TrimSpace(value)
		}
	}
	return ""
}

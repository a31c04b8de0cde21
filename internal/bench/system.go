package bench

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/procfs"
)

// skus is how many articles the orders are spread over, so that it is not one
// article's row that is measured.
const skus = 1000

// system is Skald under load.
type system struct {
	HTTP, NATS, Postgres, Shop string // as in dev's ready file

	client *http.Client
	cmd    *exec.Cmd
	dir    string
	pool   *pgxpool.Pool
	placed atomic.Int64 // orders, ever
}

// start runs `server dev` with a data folder: that makes it durable.
func start(ctx context.Context, server string, flags ...string) (*system, error) {
	dir, err := os.MkdirTemp("", "bench-")
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(dir, 0o755); err != nil { //nolint:gosec // Postgres may run as another user
		return nil, err
	}
	s := &system{dir: dir, client: &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 4096}}}
	ready := filepath.Join(dir, "ready.json")
	flags = append([]string{"dev", "--http-addr", "127.0.0.1:0", "--nats-addr", "127.0.0.1:0", "--admin-addr", "",
		"--data", filepath.Join(dir, "data"), "--ready-file", ready, "--log-level", "warn"}, flags...)
	s.cmd = exec.Command(server, flags...) //nolint:noctx // it is stopped by hand
	s.cmd.Stderr = os.Stderr
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // Ctrl-C is for us
	if err := s.cmd.Start(); err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	if err := s.open(ctx, ready); err != nil {
		return nil, errors.Join(err, s.stop())
	}
	return s, nil
}

func (s *system) open(ctx context.Context, ready string) error {
	for deadline := time.Now().Add(time.Minute); ; {
		b, err := os.ReadFile(ready)
		if err == nil {
			if err := json.Unmarshal(b, s); err != nil {
				return fmt.Errorf("read ready file: %w", err)
			}
			break
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("the server did not get ready: %w", err)
		}
		if err := wait(ctx, 50*time.Millisecond); err != nil {
			return err
		}
	}
	var err error
	if s.pool, err = pgxpool.New(ctx, s.Postgres); err != nil {
		return err
	}
	shop, err := pgx.Connect(ctx, s.Shop)
	if err != nil {
		return err
	}
	defer func() { _ = shop.Close(ctx) }()
	_, err = shop.Exec(ctx, `INSERT INTO inventory.stock (sku, on_hand) SELECT 'bench-' || n, 1000000000 FROM generate_series(0, $1) n`, skus-1)
	return err
}

func (s *system) stop() error {
	if s.pool != nil {
		s.pool.Close()
	}
	_ = s.cmd.Process.Signal(os.Interrupt)
	err := s.cmd.Wait()
	return errors.Join(err, os.RemoveAll(s.dir))
}

// measured is the state of the counters at one moment.
type measured struct {
	at          time.Time
	completed   int64
	queries     int64 // statements and transactions in Skald's database, without our own
	wal         int64
	cpu         time.Duration // of the server's process
	postgresCPU time.Duration
	rss         int
}

func (s *system) measure(ctx context.Context) (measured, error) {
	m := measured{at: time.Now()}
	// Statements outside a transaction block are transactions of their own.
	err := s.pool.QueryRow(ctx, `
		SELECT (SELECT count(*) FROM saga WHERE status = 'completed'), pg_current_wal_lsn() - '0/0'::pg_lsn,
		       (SELECT xact_commit + xact_rollback FROM pg_stat_database WHERE datname = current_database())`).Scan(&m.completed, &m.wal, &m.queries)
	if err != nil {
		return m, fmt.Errorf("read counters: %w", err)
	}
	return m, s.processes(&m)
}

// processes adds up the server and its children, which are Postgres.
func (s *system) processes(m *measured) error {
	all, err := procfs.AllProcs()
	if err != nil {
		return fmt.Errorf("read processes: %w", err)
	}
	parent := map[int]int{}
	stats := map[int]procfs.ProcStat{}
	for _, p := range all {
		st, err := p.Stat()
		if err != nil {
			continue // it has ended
		}
		stats[p.PID], parent[p.PID] = st, st.PPID
	}
	for pid, st := range stats {
		cpu := time.Duration(st.CPUTime() * float64(time.Second))
		switch {
		case pid == s.cmd.Process.Pid:
			m.cpu, m.rss = cpu, st.ResidentMemory()
		case strings.HasPrefix(st.Comm, "postgres") && descends(parent, pid, s.cmd.Process.Pid):
			m.postgresCPU += cpu
		}
	}
	return nil
}

func descends(parent map[int]int, pid, from int) bool {
	for pid > 1 {
		if pid = parent[pid]; pid == from {
			return true
		}
	}
	return false
}

package bench

import (
	"context"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/prometheus/procfs"
)

// The processes whose time is told apart.
const (
	roleServer       = "server"
	roleRelay        = "relay"
	roleParticipants = "participants"
	roleNATS         = "nats"
	rolePostgres     = "postgres"
	roleLoad         = "load_generator" // this process
)

// meter is the state of the counters at one moment.
type meter struct {
	at           time.Time
	statements   int64 // in the database that was asked for
	transactions int64
	writes       int64 // transactions of the cluster that wrote
	wal          int64 // bytes, of the cluster
	cpu          map[string]time.Duration
	peak         map[string]float64 // MB
}

// read reads the counters. of says which process is counted as what; the
// cluster's and this one come on top.
func (m *machine) read(ctx context.Context, database string, of map[int]string) (meter, error) {
	r := meter{at: time.Now()}
	calls := `0`
	if m.exact {
		calls = `(SELECT coalesce(sum(calls), 0)::bigint FROM pg_stat_statements(false) WHERE dbid = d.oid)`
	}
	// Postgres adds a connection's transactions up once a second: at both ends
	// of a measurement under one load as many are missing.
	q := `SELECT ` + calls + `, s.xact_commit + s.xact_rollback, (pg_current_wal_insert_lsn() - '0/0'::pg_lsn)::bigint,
		       pg_snapshot_xmax(pg_current_snapshot())::text::bigint
		FROM pg_database d JOIN pg_stat_database s ON s.datid = d.oid WHERE d.datname = $1`
	if err := m.admin.QueryRow(ctx, q, database).Scan(&r.statements, &r.transactions, &r.wal, &r.writes); err != nil {
		return r, fmt.Errorf("read counters: %w", err)
	}
	if !m.exact {
		r.statements = r.transactions
	}
	err := r.processes(of)
	return r, err
}

func (s *system) read(ctx context.Context) (meter, error) {
	of := map[int]string{s.queue.cmd.Process.Pid: roleNATS}
	for _, c := range s.children() {
		of[c.cmd.Process.Pid] = c.role
	}
	return s.machine.read(ctx, s.name, of)
}

func (r *meter) processes(of map[int]string) error {
	r.cpu, r.peak = map[string]time.Duration{}, map[string]float64{}
	all, err := procfs.AllProcs()
	if err != nil {
		return fmt.Errorf("read processes: %w", err)
	}
	parent, stats := map[int]int{}, map[int]procfs.ProcStat{}
	for _, p := range all {
		st, err := p.Stat()
		if err != nil {
			continue // it has ended
		}
		stats[p.PID], parent[p.PID] = st, st.PPID
	}
	self := os.Getpid()
	for pid, st := range stats {
		cpu := seconds(st.CPUTime())
		role := of[pid]
		switch {
		case pid == self:
			role = roleLoad
		case role == "" && strings.HasPrefix(st.Comm, "postgres") && descends(parent, pid, self):
			role = rolePostgres
			if parent[pid] == self { // with those of its children that have ended
				cpu += seconds(float64(st.CUTime+st.CSTime) / ticks)
			}
		}
		if role == "" {
			continue
		}
		r.cpu[role] += cpu
		if of[pid] != "" {
			r.peak[role] = max(r.peak[role], peak(pid))
		}
	}
	return nil
}

// ticks a second of the times in /proc, as for every user of Linux.
const ticks = 100

func seconds(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }

// peak is the most memory that a process has had resident, in MB; 0 if it is
// not known.
func peak(pid int) float64 {
	p, err := procfs.NewProc(pid)
	if err != nil {
		return 0
	}
	st, err := p.NewStatus()
	if err != nil {
		return 0
	}
	return float64(st.VmHWM) / 1e6
}

func descends(parent map[int]int, pid, from int) bool {
	for pid > 1 {
		if pid = parent[pid]; pid == from {
			return true
		}
	}
	return false
}

// slice is what was measured between two moments, under one load.
type slice struct {
	sagas        int64
	took         time.Duration
	statements   int64
	transactions int64
	writes       int64
	wal          int64
	cpu          map[string]time.Duration
	peak         map[string]float64
	times        latencies
}

func between(a, b meter, sagas int64) slice {
	s := slice{sagas: sagas, took: b.at.Sub(a.at), statements: b.statements - a.statements, transactions: b.transactions - a.transactions,
		writes: b.writes - a.writes, wal: b.wal - a.wal, cpu: map[string]time.Duration{}, peak: b.peak}
	for role, cpu := range b.cpu {
		s.cpu[role] = cpu - a.cpu[role]
	}
	return s
}

// add joins what was measured at two times under the same load.
func (s *slice) add(other slice) {
	s.sagas, s.took, s.statements, s.transactions = s.sagas+other.sagas, s.took+other.took, s.statements+other.statements, s.transactions+other.transactions
	s.writes, s.wal, s.times = s.writes+other.writes, s.wal+other.wal, append(s.times, other.times...)
	if s.cpu == nil {
		s.cpu, s.peak = map[string]time.Duration{}, map[string]float64{}
	}
	for role, cpu := range other.cpu {
		s.cpu[role] += cpu
	}
	for role, mb := range other.peak {
		s.peak[role] = max(s.peak[role], mb)
	}
}

func (s slice) perSecond() float64 { return quotient(float64(s.sagas), s.took.Seconds()) }

// each is so much per saga.
func (s slice) each(n int64) float64 { return quotient(float64(n), float64(s.sagas)) }

// cpuPerSaga is in microseconds, by process.
func (s slice) cpuPerSaga() map[string]float64 {
	out := map[string]float64{}
	for role, cpu := range s.cpu {
		us := quotient(float64(cpu.Microseconds()), float64(s.sagas))
		out[role] = round(us)
		out["total"] = round(out["total"] + us)
	}
	return out
}

func quotient(a, b float64) float64 {
	if b == 0 {
		return 0
	}
	return a / b
}

package outbox

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"
)

const (
	stateEvery   = 5 * time.Second // scrapes more frequent than this share an answer
	stateTimeout = 2 * time.Second
)

// State shows what only the database knows: how much the outbox holds, and what
// keeps Postgres from tidying up. It asks when metrics are read and not
// otherwise, and shows nothing while there is no answer.
type State struct {
	pool *pgxpool.Pool
	stateGauges

	mu    sync.Mutex
	asked time.Time
	known bool
}

// NewState registers the metrics of a database's outbox with reg.
func NewState(pool *pgxpool.Pool, reg prometheus.Registerer) *State {
	s := &State{pool: pool, stateGauges: newStateGauges()}
	reg.MustRegister(s)
	return s
}

// Describe implements [prometheus.Collector].
func (s *State) Describe(ch chan<- *prometheus.Desc) {
	for _, g := range s.all() {
		g.Describe(ch)
	}
}

// Collect implements [prometheus.Collector].
func (s *State) Collect(ch chan<- prometheus.Metric) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if time.Since(s.asked) >= stateEvery {
		ctx, cancel := context.WithTimeout(context.Background(), stateTimeout)
		defer cancel()
		s.known = s.ask(ctx) == nil // why not is what the readiness check says
		s.asked = time.Now()
	}
	if !s.known {
		return
	}
	for _, g := range s.all() {
		g.Collect(ch)
	}
}

// ask reads it all. Of the sessions of other roles Postgres shows the age only
// to members of pg_read_all_stats.
func (s *State) ask(ctx context.Context) error {
	const q = `
		SELECT (SELECT coalesce(sum(pg_total_relation_size(inhrelid)), 0) FROM pg_inherits WHERE inhparent = 'outbox'::regclass),
		       (SELECT count(*) FROM outbox_dead),
		       coalesce((SELECT max(extract(epoch FROM clock_timestamp() - t)) FROM (
		         SELECT xact_start AS t FROM pg_stat_activity WHERE backend_xid IS NOT NULL
		         UNION ALL SELECT prepared FROM pg_prepared_xacts) w), 0),
		       coalesce((SELECT max(age(x)) FROM (
		         SELECT backend_xid AS x FROM pg_stat_activity
		         UNION ALL SELECT transaction FROM pg_prepared_xacts) w), 0),
		       coalesce((SELECT max(age(x)) FROM (
		         SELECT backend_xmin AS x FROM pg_stat_activity WHERE pid <> pg_backend_pid()
		         UNION ALL SELECT transaction FROM pg_prepared_xacts
		         UNION ALL SELECT xmin FROM pg_replication_slots UNION ALL SELECT catalog_xmin FROM pg_replication_slots) s), 0)`
	var ring, dead, writerSeconds, writerAge, snapshotAge float64
	if err := s.pool.QueryRow(ctx, q).Scan(&ring, &dead, &writerSeconds, &writerAge, &snapshotAge); err != nil {
		return fmt.Errorf("read the outbox's state: %w", err)
	}
	s.ring.Set(ring)
	s.dead.Set(dead)
	s.writerSeconds.Set(max(0, writerSeconds))
	s.writerAge.Set(writerAge)
	s.snapshotAge.Set(snapshotAge)
	return nil
}

// Package coordinator makes the decisions of package saga true: it locks sagas,
// lets the state machine decide, and stores state, history, timers and outbox
// rows in one transaction.
//
// It promises that a saga and everything that follows from it is written
// completely or not at all (P1), that every open saga has a timer (P2), that a
// reply which changes nothing changes nothing (P6), and that one idempotency
// key makes one saga (P8). It never talks to NATS: what is to be sent goes into
// the outbox, what was received is handed in.
//
// The two hot paths are start.go and reply.go; change.go is the transaction
// that replies, timers and operators share. What they need of the database is
// in session.go, and how Postgres does it in postgres.go and store.go.
package coordinator

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"
	"golang.org/x/sync/errgroup"
)

// Config is what a [Coordinator] needs.
type Config struct {
	Pool   *pgxpool.Pool
	Log    *slog.Logger
	Prefix string           // first token of all subjects; default "skald"
	Now    func() time.Time // default time.Now
	Wake   func()           // called after a commit that wrote outbox rows; must not block; may be nil

	Defined func() // called after a definition was stored, which may name new participants; must not block; may be nil

	StartQueue int // most starts waiting; more get ErrOverloaded; default 4096

	// With more than that in the outbox, starts get ErrOutboxFull; 0: no limit.
	MaxOutboxRows, MaxOutboxBytes int64

	Metrics *Metrics
}

// Coordinator is safe for concurrent use. Any number of them may work on one
// database: row locks and versions keep them correct.
type Coordinator struct {
	Config
	db          database
	newID       func() (uuid.UUID, error)
	wait        func(context.Context, time.Duration) // waits, but not longer than the context
	definitions definitions
	starts      chan *startJob
	reads       chan struct{} // one for each read under way; see reading
	watch       watchers
	batchPoke   chan struct{}
	pauses      atomic.Pointer[pauses]
	memory      memory
	admission   admission
	timerPoke   chan time.Time
	stopped     chan struct{} // closed when Run has returned
	stop        sync.Once
}

// New returns a coordinator that does nothing before [Coordinator.Run].
func New(cfg Config) *Coordinator {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Prefix == "" {
		cfg.Prefix = "skald"
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Wake == nil {
		cfg.Wake = func() {}
	}
	if cfg.Defined == nil {
		cfg.Defined = func() {}
	}
	if cfg.StartQueue == 0 {
		cfg.StartQueue = 4096
	}
	if cfg.Metrics == nil {
		cfg.Metrics = NewMetrics(nil)
	}
	return &Coordinator{
		Config:    cfg,
		db:        postgres{cfg.Pool},
		newID:     uuid.NewV7,
		wait:      sleep,
		starts:    make(chan *startJob, cfg.StartQueue),
		reads:     make(chan struct{}, max(1, cfg.Pool.Config().MaxConns/2)),
		timerPoke: make(chan time.Time, 1),
		batchPoke: make(chan struct{}, 1),
		stopped:   make(chan struct{}),
	}
}

// Run writes starts and fires timers until ctx is cancelled, then answers the
// starts that are still queued and returns nil.
func (c *Coordinator) Run(ctx context.Context) error {
	defer c.stop.Do(func() { close(c.stopped) })
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return c.runStarts(ctx) })
	g.Go(func() error { return c.runTimers(ctx) })
	g.Go(func() error { return c.runWatch(ctx) })
	g.Go(func() error { return c.runPauses(ctx) })
	g.Go(func() error { return c.runBatches(ctx) })
	g.Go(func() error { return c.runAdmission(ctx) })
	return g.Wait()
}

// Ready returns an error if the database does not answer.
func (c *Coordinator) Ready(ctx context.Context) error {
	if err := c.Pool.Ping(ctx); err != nil {
		return fmt.Errorf("reach database: %w", err)
	}
	return nil
}

// now is the time as the database keeps it: what is folded from stored history
// must equal what was decided.
func (c *Coordinator) now() time.Time { return c.Now().UTC().Truncate(time.Microsecond) }

// newSagaID returns a UUIDv7 (RFC 9562) whose last byte is the cell, 0 until
// there is more than one database.
func (c *Coordinator) newSagaID() (uuid.UUID, error) {
	id, err := c.newID()
	if err != nil {
		return uuid.Nil, fmt.Errorf("make id: %w", err)
	}
	id[15] = 0
	return id, nil
}

// sleep waits, but not longer than ctx.
func sleep(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}

package coordinator

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/skald-saga/skald/internal/outbox"
	"github.com/skald-saga/skald/internal/saga"
)

// admission refuses new sagas while the outbox is full (P11): the relay or the
// broker is away, and what is accepted now would only wait. What concerns sagas
// that were accepted flows on. Starts never wait for it: they see what was
// found when somebody looked last.
type admission struct {
	full  atomic.Bool
	asked atomic.Bool // somebody wanted to start a saga since the outbox was last looked at
}

const (
	fillEvery   = time.Second
	fillIdle    = 15 * time.Second // while nobody starts anything
	fillTimeout = 5 * time.Second
)

// runAdmission looks at the outbox until ctx is cancelled.
func (c *Coordinator) runAdmission(ctx context.Context) error {
	if c.MaxOutboxRows <= 0 && c.MaxOutboxBytes <= 0 {
		return nil
	}
	ticks := time.NewTicker(fillEvery)
	defer ticks.Stop()
	var looked time.Time
	for failed := false; ; {
		if wanted := c.admission.asked.Swap(false) || c.admission.full.Load(); wanted || time.Since(looked) >= fillIdle {
			looked = time.Now()
			err := c.lookAtOutbox(ctx)
			if err != nil && !failed && ctx.Err() == nil { // starts go on, and fail by themselves if the database is away
				c.Log.WarnContext(ctx, "the outbox cannot be measured", "err", err, "retry_in", fillEvery)
			}
			failed = err != nil
		}
		select {
		case <-ctx.Done():
			return nil
		case <-ticks.C:
		}
	}
}

// lookAtOutbox decides whether sagas may start. Once refused, they may again
// when a quarter of a limit is free: else each one that leaves would let one in.
func (c *Coordinator) lookAtOutbox(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, fillTimeout)
	defer cancel()
	f, err := outbox.ReadFill(ctx, c.Pool)
	if err != nil {
		return err
	}
	c.Metrics.outboxRows.Set(float64(f.Rows))
	c.Metrics.outboxBytes.Set(float64(f.Bytes))
	was := c.admission.full.Load()
	full := reached(f.Rows, c.MaxOutboxRows, was) || reached(f.Bytes, c.MaxOutboxBytes, was)
	if full == was {
		return nil
	}
	c.admission.full.Store(full)
	if full {
		c.Metrics.outboxFull.Set(1)
		c.Log.ErrorContext(ctx, "the outbox is full: no saga is started until it empties", "rows", f.Rows, "bytes", f.Bytes)
	} else {
		c.Metrics.outboxFull.Set(0)
		c.Log.InfoContext(ctx, "the outbox has room again: sagas are started", "rows", f.Rows, "bytes", f.Bytes)
	}
	return nil
}

func reached(n, limit int64, was bool) bool {
	if was {
		limit -= limit / 4
	}
	return limit > 0 && n >= limit
}

// admits reports whether a new saga may start. An operator's restart always may.
func (c *Coordinator) admits(req StartRequest) bool {
	if !c.admission.asked.Load() { // mostly it is set already: do not write what all starts share
		c.admission.asked.Store(true)
	}
	return req.again != (saga.Origin{}) || !c.admission.full.Load()
}

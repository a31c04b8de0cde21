package outbox

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"
)

// Row is a committed message on its way out.
type Row struct {
	Lane      int16
	Seq       int64
	Key       string
	MsgID     uuid.UUID
	Subject   string
	Headers   []byte // a JSON object of strings
	Payload   []byte
	CreatedAt time.Time

	among int // how many rows the page would have but for their size
}

// Result is what became of one row. The zero value means that the broker has
// it.
type Result struct {
	Err    error // nil: acknowledged
	Poison bool  // Err will never pass: the row becomes a dead letter

	// Blocked says that Err will pass, but concerns this subject and not the
	// broker: no stream takes it, or its stream is full.
	Blocked bool

	Unknown   bool // Err leaves open whether the broker has the row
	Duplicate bool // the broker had the row already
}

// Publisher sends rows to the broker and returns one result for each once all
// are known. It sends a key's next row only when the broker has the previous
// one. After the first failure it sends nothing more, but for poison, and but
// for a blocked row, after which it sends nothing more of that key. What was not
// sent, or was not acknowledged, carries an error: whether the broker has it is
// then unknown, and the row will be offered again.
type Publisher interface {
	Publish(ctx context.Context, rows []Row) []Result
}

// Relay publishes the outbox of one database. Any number of relays may run:
// each lane of the outbox is published by one of them, and they share the lanes
// evenly. If one ends, the others take its lanes: at once if it was told to
// stop, when its leases have run out if it died.
type Relay struct {
	Pool      *pgxpool.Pool
	Publisher Publisher
	Log       *slog.Logger
	Wake      <-chan struct{} // says that rows were committed, or lanes let go; may miss any number of times; may be nil
	Freed     func()          // tells other relays that lanes were let go; may be nil: they will find out
	Metrics   *Metrics
	Retain    time.Duration // how long rows are kept after they were published; zero: half an hour
	Lease     time.Duration // how long a lane stays with a relay that has died; zero: six seconds

	limits limits // of a page; zero: the default
}

const (
	pollFast = 10 * time.Millisecond // the first poll after work
	pollSlow = 250 * time.Millisecond

	backoffFirst = 50 * time.Millisecond
	backoffMost  = 5 * time.Second

	readTimeout   = time.Minute // a window of millions of rows takes a while; one of a hundred million, more than one try
	readMost      = time.Hour
	settleTimeout = 10 * time.Second
)

// Run publishes until ctx is cancelled, then finishes the page at hand, lets
// its lanes go and returns nil. Nothing stops it: while Postgres or the broker
// is away it tries again, at growing intervals.
func (r *Relay) Run(ctx context.Context) error {
	if r.Metrics == nil {
		r.Metrics = NewMetrics(nil)
	}
	rd := r.newReader()
	var keeper sync.WaitGroup
	defer keeper.Wait()
	renewing, stop := context.WithCancel(context.WithoutCancel(ctx)) // the page at hand still needs its lanes
	defer stop()
	keeper.Go(func() { rd.lease.keep(renewing) })
	r.loop(ctx, rd)
	return r.leave(ctx, rd)
}

func (r *Relay) newReader() *reader {
	l := &lease{pool: r.Pool, owner: ownerName(), ttl: cmp.Or(r.Lease, defaultLease)}
	rd := &reader{pool: r.Pool, lease: l, limits: r.limits, guard: r.Metrics.guard}
	if rd.limits == (limits{}) {
		rd.limits = defaultLimits
	}
	return rd
}

func (r *Relay) loop(ctx context.Context, rd *reader) {
	house := &ring{pool: r.Pool, retain: cmp.Or(r.Retain, defaultRetain), log: r.Log, metrics: r.Metrics}
	poll, backoff := pollFast, backoffFirst
	for ctx.Err() == nil {
		n, err := r.pass(ctx, rd)
		house.keep(ctx, rd.moves)
		r.Metrics.parked.Set(float64(rd.parking.rows))
		if m, retryErr := r.retry(ctx, rd); m > 0 || retryErr != nil {
			n, err = n+m, cmp.Or(err, retryErr)
		}
		if err == nil {
			var taken int
			taken, err = r.share(ctx, rd)
			n += taken
		}
		switch {
		case ctx.Err() != nil:
		case errors.Is(err, errMoved), errors.Is(err, errLapsed): // nothing is wrong: somebody else is at work
			r.Metrics.fenced.Inc()
			r.Log.DebugContext(ctx, "another relay was faster", "err", err, "retry_in", backoff)
			wait(ctx, nil, backoff)
			backoff = min(2*backoff, backoffMost)
		case err != nil:
			r.Log.WarnContext(ctx, "relay pass failed", "err", err, "published", n, "retry_in", backoff)
			r.Metrics.failedPasses.Inc()
			wait(ctx, nil, backoff) // a wake-up cannot mend what failed
			backoff = min(2*backoff, backoffMost)
		case n > 0:
			poll, backoff = pollFast, backoffFirst // more may be there: go again at once
		default:
			backoff = backoffFirst
			if wait(ctx, r.Wake, min(poll, rd.untilFree())) {
				poll = pollFast
			} else {
				poll = min(2*poll, pollSlow)
			}
		}
	}
}

// leave lets our lanes go and tells the others.
func (r *Relay) leave(ctx context.Context, rd *reader) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), settleTimeout)
	defer cancel()
	if err := rd.lease.release(ctx, nil); err != nil {
		r.Log.WarnContext(ctx, "the lanes are free only when their leases have run out", "err", err)
		return nil
	}
	r.freed()
	return nil
}

func (r *Relay) freed() {
	if r.Freed != nil {
		r.Freed()
	}
}

// share sees to it that the lanes are shared evenly. It lets go of lanes of
// which we have too many, takes those that are free, and returns how many it
// took.
func (r *Relay) share(ctx context.Context, rd *reader) (taken int, err error) {
	ctx, cancel := context.WithTimeout(ctx, settleTimeout)
	defer cancel()
	mine, free, expired := rd.held(), 0, 0
	for _, l := range rd.seen.Lanes {
		switch {
		case l.Mine:
		case l.Left == nil:
			free++
		case *l.Left <= 0:
			expired++
		case rd.lease.gone(l.Owner):
			if err := rd.lease.bury(ctx, l.Owner); err != nil {
				return 0, err
			}
			expired++
		}
	}
	fair := (len(rd.seen.Lanes) + rd.seen.Relays - 1) / max(rd.seen.Relays, 1)
	r.Metrics.lanes.Set(float64(len(mine)))
	switch want := max(min(free+expired, fair-len(mine)), expired); {
	case len(mine) > fair:
		if err := rd.lease.release(ctx, mine[fair:]); err != nil {
			return 0, err
		}
		rd.forget()
		r.Log.InfoContext(ctx, "let go of outbox lanes, for another relay", "lanes", mine[fair:])
		r.freed()
	case want > 0 || len(mine) == 0 && rd.lease.mustShow():
		if taken, err = rd.lease.claim(ctx, want); err != nil || taken == 0 {
			return 0, err
		}
		rd.forget()
		r.Metrics.takeovers.Add(float64(taken))
		r.Log.InfoContext(ctx, "took outbox lanes", "number", taken)
	}
	return taken, nil
}

// wait returns early, and true, when woken.
func wait(ctx context.Context, wake <-chan struct{}, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-wake:
		return true
	case <-t.C:
		return false
	}
}

// pass publishes one page. It returns how many rows left the outbox.
func (r *Relay) pass(ctx context.Context, rd *reader) (int, error) {
	p, err := rd.nextInTime(ctx)
	if err != nil {
		return 0, err
	}
	if len(p.rows) == 0 {
		r.Metrics.oldest.Set(0)
		return 0, nil
	}
	r.Metrics.oldest.Set(max(0, time.Since(p.rows[0].CreatedAt).Seconds())) // clocks differ
	if !rd.lease.holds() {                                                  // we were stopped for a while, or reading took long
		rd.forget()
		return 0, errLapsed
	}
	results, err := rd.offer(ctx, r.Publisher, p.rows)
	if err != nil {
		return 0, err
	}
	r.Metrics.page.Observe(float64(len(p.rows)))
	r.Metrics.offer(results)
	done, out, publishErr := judge(p.rows, results, rd.mayPark(results, time.Now()))
	r.observe(p.rows[:done], results[:done])
	if done == 0 {
		return 0, publishErr
	}
	// What is published must be noted even while stopping.
	settleCtx, cancelSettle := context.WithTimeout(context.WithoutCancel(ctx), settleTimeout)
	defer cancelSettle()
	if err := rd.settle(settleCtx, p, done, out); err != nil {
		return 0, errors.Join(err, publishErr)
	}
	r.logDead(ctx, out)
	return done, publishErr
}

func (r *Relay) logDead(ctx context.Context, out []aside) {
	for _, d := range out {
		if !d.parked {
			r.Log.ErrorContext(ctx, "outbox message became a dead letter", "msg_id", d.row.MsgID, "subject", d.row.Subject, "key", d.row.Key, "err", d.err)
		}
	}
}

// aside is a row that leaves the outbox without having been published.
type aside struct {
	row    Row
	err    error
	parked bool // until the broker takes it; else it is dead
}

// judge finds how many rows, from the first, are done with: acknowledged, dead
// or, if that may be, parked. The rows after those are offered again,
// acknowledged or not, so that no row overtakes an earlier one of its key for
// good.
func judge(rows []Row, results []Result, mayPark bool) (done int, out []aside, err error) {
	parked := map[string]bool{}
	for i, res := range results {
		key := rows[i].Key
		switch {
		case mayPark && (res.Blocked || parked[key]):
			parked[key] = true
			out = append(out, aside{rows[i], cmp.Or(res.Err, errBehind), true})
		case res.Err == nil:
		case res.Poison:
			out = append(out, aside{row: rows[i], err: res.Err})
		default:
			return i, out, res.Err
		}
	}
	return len(results), out, nil
}

func (r *Relay) observe(rows []Row, results []Result) {
	for i, row := range rows {
		if results[i].Err != nil {
			r.Metrics.published.WithLabelValues(map[bool]string{true: "dead", false: "parked"}[results[i].Poison]).Inc()
			continue
		}
		r.Metrics.published.WithLabelValues("acknowledged").Inc()
		r.Metrics.latency.Observe(max(0, time.Since(row.CreatedAt).Seconds()))
	}
}

package outbox

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"
)

// Row is a committed message on its way out.
type Row struct {
	Seq       int64
	Key       string
	MsgID     uuid.UUID
	Subject   string
	Headers   []byte // a JSON object of strings
	Payload   []byte
	CreatedAt time.Time
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
// two at once publish twice (with the same message ids), but the position
// moves by compare-and-set, so none can move it past what is not published.
type Relay struct {
	Pool      *pgxpool.Pool
	Publisher Publisher
	Log       *slog.Logger
	Wake      <-chan struct{} // says that rows were committed; may miss any number of times; may be nil
	Metrics   *Metrics
	Retain    time.Duration // how long rows are kept after they were published; zero: half an hour

	limits limits // of a page; zero: the default
}

const (
	lane = 0 // there is one lane; its column and table leave room for more

	pollFast = 10 * time.Millisecond // the first poll after work
	pollSlow = 250 * time.Millisecond

	backoffFirst = 50 * time.Millisecond
	backoffMost  = 5 * time.Second

	readTimeout   = time.Minute // a window of millions of rows takes a while
	settleTimeout = 10 * time.Second
)

// Run publishes until ctx is cancelled, then finishes the page at hand and
// returns nil. Nothing stops it: while Postgres or the broker is away it tries
// again, at growing intervals.
func (r *Relay) Run(ctx context.Context) error {
	if r.Metrics == nil {
		r.Metrics = NewMetrics(nil)
	}
	rd := &reader{pool: r.Pool, limits: r.limits}
	if rd.limits == (limits{}) {
		rd.limits = defaultLimits
	}
	house := &ring{pool: r.Pool, retain: cmp.Or(r.Retain, defaultRetain), log: r.Log, metrics: r.Metrics}
	poll, backoff := pollFast, backoffFirst
	for ctx.Err() == nil {
		n, err := r.pass(ctx, rd)
		house.keep(ctx, rd.moves)
		r.Metrics.parked.Set(float64(rd.parking.rows))
		if m, retryErr := r.retry(ctx, rd); m > 0 || retryErr != nil {
			n, err = n+m, cmp.Or(err, retryErr)
		}
		switch {
		case ctx.Err() != nil:
		case errors.Is(err, errMoved): // nothing is wrong: one of two relays is enough
			r.Log.DebugContext(ctx, "another relay was faster", "retry_in", backoff)
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
			if wait(ctx, r.Wake, poll) {
				poll = pollFast
			} else {
				poll = min(2*poll, pollSlow)
			}
		}
	}
	return nil
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
	readCtx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	p, err := rd.next(readCtx)
	if err != nil {
		return 0, err
	}
	if len(p.rows) == 0 {
		r.Metrics.oldest.Set(0)
		return 0, nil
	}
	r.Metrics.oldest.Set(max(0, time.Since(p.rows[0].CreatedAt).Seconds())) // clocks differ
	results, err := rd.offer(ctx, r.Publisher, p.rows)
	if err != nil {
		return 0, err
	}
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

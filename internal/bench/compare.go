package bench

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
)

// shop measures participants that keep books, in turns with those that only
// answer.
func (r *run) shop(ctx context.Context) error {
	r.p.headf("With the shop: inventory, payment and shipping on tables of their own")
	s, err := r.startSystem(ctx, "shop", "shop", "", orderServices)
	if err != nil {
		return err
	}
	if err := r.warmUp(ctx, s); err != nil {
		return err
	}
	var with, without slice
	out := &Shop{}
	err = r.turns(ctx, "shop", "echo", &out.Rounds, &with, &without, r.sliceOf(s), r.sliceOf(r.main))
	if err != nil {
		return err
	}
	out.SagasPerSecond, out.RatioToEcho = round(with.perSecond()), round(quotient(with.perSecond(), without.perSecond()))
	out.CPU = with.cpuPerSaga()
	r.report.Shop = out
	r.p.linef("completed sagas a second; ratio to echo", "%.0f, %.3f", out.SagasPerSecond, out.RatioToEcho)
	r.p.cpu("processor time per saga", out.CPU)
	return s.stop()
}

func (r *run) sliceOf(s *system) func(context.Context) (slice, error) {
	return func(ctx context.Context) (slice, error) { return r.slice(ctx, s, r.request(), r.cfg.Clients) }
}

func (r *run) compare(ctx context.Context, c *Compared, with, without func(context.Context) (slice, error)) error {
	var a, b slice
	if err := r.turns(ctx, "with", "without", &c.Rounds, &a, &b, with, without); err != nil {
		return err
	}
	c.SagasPerSecond, c.Without = round(a.perSecond()), round(b.perSecond())
	c.Ratio = round(quotient(a.perSecond(), b.perSecond()))
	r.p.linef("completed sagas a second; without; ratio", "%.0f, %.0f, %.3f", c.SagasPerSecond, c.Without, c.Ratio)
	return nil
}

// snapshot measures while an old snapshot is held open, which keeps Postgres
// from removing dead rows.
func (r *run) snapshot(ctx context.Context) error {
	r.p.headf("With an old snapshot held open, and without")
	r.report.Snapshot = &Compared{}
	return r.compare(ctx, r.report.Snapshot, func(ctx context.Context) (out slice, err error) {
		conn, err := pgx.Connect(ctx, r.main.url)
		if err != nil {
			return out, err
		}
		defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
		// With an id of its own it holds back the horizon of every database.
		if _, err := conn.Exec(ctx, `BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT pg_current_xact_id()`); err != nil {
			return out, fmt.Errorf("hold a snapshot: %w", err)
		}
		return r.slice(ctx, r.main, r.request(), r.cfg.Clients)
	}, r.sliceOf(r.main))
}

// loaded measures with a database that holds many sagas, in turns with the one
// that holds only what this run has made.
func (r *run) loaded(ctx context.Context) error {
	r.p.headf("With %d finished and %d open sagas in the database, and without", r.cfg.Finished, r.cfg.Open)
	s, err := r.startSystem(ctx, "loaded", "echo", "", orderServices)
	if err != nil {
		return err
	}
	empty, err := r.startSystem(ctx, "empty", "echo", "", orderServices)
	if err != nil {
		return err
	}
	if err := r.fill(ctx, s); err != nil {
		return err
	}
	for _, each := range []*system{s, empty} {
		if err := r.warmUp(ctx, each); err != nil {
			return err
		}
	}
	r.report.Loaded = &Compared{Finished: r.cfg.Finished, Open: r.cfg.Open}
	if err := r.compare(ctx, r.report.Loaded, r.sliceOf(s), r.sliceOf(empty)); err != nil {
		return err
	}
	if err := empty.stop(); err != nil {
		return err
	}
	return s.stop()
}

// fill copies one saga that has ended and one that waits, with all that
// belongs to them, until there are as many as wanted.
func (r *run) fill(ctx context.Context, s *system) error {
	finished, err := dial(s.addrs[0], r.request())
	if err != nil {
		return err
	}
	defer func() { _ = finished.conn.Close() }()
	if err := finished.do(s.number.Add(1)); err != nil {
		return fmt.Errorf("make a saga that ends: %w", err)
	}
	if err := waiting(s); err != nil {
		return err
	}
	conn, err := pgx.Connect(ctx, s.url)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
	if _, err := conn.Exec(ctx, `SET synchronous_commit = off`); err != nil { // of this connection only
		return err
	}
	for _, kind := range []struct {
		status string
		n      int
	}{{"completed", r.cfg.Finished}, {"running", r.cfg.Open}} {
		for begun := 0; begun < kind.n; begun += fillStep {
			n := min(fillStep, kind.n-begun)
			if err := multiply(ctx, conn, kind.status, n); err != nil {
				return fmt.Errorf("multiply %s sagas: %w", kind.status, err)
			}
			r.p.linef("made", "%d of %d %s sagas", begun+n, kind.n, kind.status)
		}
	}
	_, err = conn.Exec(ctx, `VACUUM (ANALYZE)`)
	return err
}

const fillStep = 100_000

// waiting starts a saga that waits for a day: it is answered when it has been
// stored, not when it ends.
func waiting(s *system) error {
	req := orderOf(waitingSKU, "pending")
	req = req.without("Prefer: wait=30\r\n")
	c, err := dial(s.addrs[0], req)
	if err != nil {
		return err
	}
	defer func() { _ = c.conn.Close() }()
	c.req.number(s.number.Add(1))
	if _, err := c.conn.Write(c.req.bytes); err != nil {
		return err
	}
	status, err := c.answer()
	if err != nil || status != 202 {
		return fmt.Errorf("make a saga that waits: %d %w", status, cmpErr(err))
	}
	return nil
}

// multiply copies a saga of a status n times. The copies' ids are older than
// any that the system makes, in order, as those of real sagas would be; their
// timers are due in a day.
func multiply(ctx context.Context, conn *pgx.Conn, status string, n int) error {
	const q = `
		WITH pattern AS (SELECT s.*, o.customer_id, o.currency, o.total FROM saga s JOIN orders o USING (id) WHERE s.status = $1 ORDER BY s.id LIMIT 1),
		copies AS (
			SELECT gen_random_uuid() AS id, p.id AS of FROM pattern p, generate_series(1, $2)),
		ids AS (SELECT ('0000' || substr(id::text, 5, 10) || '7' || substr(id::text, 16))::uuid AS id, of FROM copies ORDER BY 1),
		sagas AS (
			INSERT INTO saga (id, definition_id, version, status, state, input, command_xid, wake_at, created_at, updated_at)
			SELECT i.id, p.definition_id, p.version, p.status, p.state, p.input, p.command_xid,
			       CASE WHEN p.wake_at IS NOT NULL THEN now() + interval '1 day' END, p.created_at, p.updated_at
			FROM ids i JOIN pattern p ON p.id = i.of),
		placed AS (
			INSERT INTO orders (id, customer_id, currency, total)
			SELECT i.id, p.customer_id, p.currency, p.total FROM ids i JOIN pattern p ON p.id = i.of),
		keys AS (
			INSERT INTO idempotency_key (principal, route, key, fingerprint, saga_id, created_at)
			SELECT k.principal, k.route, i.id::text, k.fingerprint, i.id, k.created_at FROM ids i JOIN idempotency_key k ON k.saga_id = i.of),
		timers AS (
			INSERT INTO saga_timer (due_at, saga_id)
			SELECT now() + interval '1 day', i.id FROM ids i JOIN pattern p ON p.id = i.of WHERE p.status = 'running')
		INSERT INTO saga_history (saga_id, version, at, entries)
		SELECT i.id, h.version, h.at, h.entries FROM ids i JOIN saga_history h ON h.saga_id = i.of ORDER BY i.id, h.version`
	_, err := conn.Exec(ctx, q, status, n)
	return err
}

package e2e

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/skald-saga/skald/internal/testkit"
)

// heal ends all faults, and waits until nothing more is to be done.
func (w *world) heal() {
	w.t.Helper()
	w.writing()
	w.writers.Wait()
	w.closeOpen()
	ctx := context.Background()
	rows, err := w.pool.Query(ctx, `SELECT gid FROM pg_prepared_xacts WHERE database = current_database()`)
	if err != nil {
		w.t.Fatal(err)
	}
	orphans, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		w.t.Fatal(err)
	}
	for _, gid := range orphans {
		if _, err := w.pool.Exec(ctx, `COMMIT PREPARED '`+gid+`'`); err != nil {
			w.t.Fatal(err)
		}
	}
	var resent time.Time
	testkit.Eventually(w.t, "nothing is left to publish or to do", time.Minute, func() (bool, string) {
		h, err := w.books(ctx)
		if err != nil {
			return false, err.Error()
		}
		left := h.lost(firsts(h.stored))
		missing := h.missing()
		if len(left) == 0 && len(missing) > 0 && time.Since(resent) > 3*time.Second {
			w.resend(h)
			resent = time.Now()
		}
		left = append(left, missing...)
		return len(left) == 0, fmt.Sprint(first(left, 5))
	})
	for _, r := range w.readers {
		r.stop()
		got, err := r.read(ctx)
		if err != nil {
			w.t.Fatal(err)
		}
		r.seen = append(r.seen, got...)
		r.stop = func() {}
	}
	w.stopped.Store(true)
	w.watchers.Wait()
}

// resend asks again for what has not happened, as step timeouts do: a
// participant whose database was away has asked for another attempt.
func (w *world) resend(h *history) {
	for _, effect := range h.missing() {
		w.try(change("resent", effect, false))
	}
}

// missing returns what was asked for and has not happened.
func (h *history) missing() []string {
	wanted := map[string]bool{}
	for _, c := range h.committed {
		if !c.poison && h.effects[c.effect] == 0 {
			wanted[c.effect] = true
		}
	}
	return slices.Sorted(maps.Keys(wanted))
}

// history returns what happened, once nothing happens any more.
func (w *world) history() *history {
	h, err := w.books(context.Background())
	if err != nil {
		w.t.Fatal(err)
	}
	return h
}

// books reads what was committed, set aside and done, and copies what was seen.
func (w *world) books(ctx context.Context) (*history, error) {
	h := &history{dead: map[string]bool{}, effects: map[string]int{}, retain: time.Hour}
	if !w.forgetful {
		h.retain = historyRetain
	}
	rows, err := w.pool.Query(ctx, `SELECT msg_id::text, key, version, effect, poison, at FROM commit_log`)
	if err != nil {
		return nil, err
	}
	var c committed
	if _, err := pgx.ForEachRow(rows, []any{&c.msgID, &c.key, &c.version, &c.effect, &c.poison, &c.at}, func() error {
		h.committed = append(h.committed, c)
		return nil
	}); err != nil {
		return nil, err
	}
	var id string
	if rows, err = w.pool.Query(ctx, `SELECT msg_id::text FROM outbox_dead`); err != nil {
		return nil, err
	}
	if _, err := pgx.ForEachRow(rows, []any{&id}, func() error { h.dead[id] = true; return nil }); err != nil {
		return nil, err
	}
	if rows, err = w.effects.Query(ctx, `SELECT id FROM effect`); err != nil {
		return nil, err
	}
	if _, err := pgx.ForEachRow(rows, []any{&id}, func() error { h.effects[id]++; return nil }); err != nil {
		return nil, err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	h.stored, h.lanes, h.wipes = append(h.stored, w.stored...), append(h.lanes, w.lanes...), append(h.wipes, w.wipes...)
	h.passed, h.gone = w.passed, w.gone
	return h, nil
}

// sample looks at the relays' books while things happen.
func (w *world) sample() {
	for !w.stopped.Load() {
		if err := w.sampleOnce(context.Background()); err != nil {
			time.Sleep(50 * time.Millisecond) // Postgres is away
		}
		time.Sleep(50 * time.Millisecond)
	}
}

func (w *world) sampleOnce(ctx context.Context) error {
	w.mu.Lock()
	era := w.era
	w.mu.Unlock()
	return pgx.BeginTxFunc(ctx, w.pool, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}, func(tx pgx.Tx) error {
		rows, err := tx.Query(ctx, `SELECT lane, pg_snapshot_xmax(snap_from)::text::bigint, pos, coalesce(owner, ''), epoch FROM outbox_lane ORDER BY lane`)
		if err != nil {
			return err
		}
		var lanes []laneSample
		s := laneSample{era: era, at: time.Now()}
		if _, err = pgx.ForEachRow(rows, []any{&s.lane, &s.xmax, &s.pos, &s.owner, &s.epoch}, func() error { lanes = append(lanes, s); return nil }); err != nil {
			return err
		}
		var passed, gone []string
		if passed, err = ids(tx.Query(ctx, `SELECT c.msg_id::text FROM commit_log c JOIN outbox_lane l USING (lane) WHERE pg_visible_in_snapshot(c.xid, l.snap_from)`)); err != nil {
			return err
		}
		if gone, err = ids(tx.Query(ctx, `SELECT c.msg_id::text FROM commit_log c WHERE NOT EXISTS (SELECT FROM outbox o WHERE o.msg_id = c.msg_id)`)); err != nil {
			return err
		}
		now := time.Now()
		w.mu.Lock()
		defer w.mu.Unlock()
		if era == w.era && era%2 == 0 { // else positions may go back just now, or it cannot be said to which era this belongs
			w.lanes = append(w.lanes, lanes...)
		}
		note(w.passed, passed, now)
		note(w.gone, gone, now)
		return nil
	})
}

func ids(rows pgx.Rows, err error) ([]string, error) {
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowTo[string])
}

func note(times map[string]time.Time, ids []string, at time.Time) {
	for _, id := range ids {
		if _, known := times[id]; !known {
			times[id] = at
		}
	}
}

func firsts(all []stored) map[string]stored {
	first := map[string]stored{}
	for _, s := range all {
		if _, seen := first[s.msgID]; !seen {
			first[s.msgID] = s
		}
	}
	return first
}

package outbox

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/skald-saga/skald/internal/testkit"
)

const (
	historyKeys    = 6
	historyWriters = 6
	historyRounds  = 40 // transactions of each writer
)

// P9: whatever writers and relays do at the same time - long and short
// transactions, rollbacks, relays that fail, die and are replaced - every
// committed row is published, no other row is, and the first publications of a
// key come in the order of its commits.
func TestEveryHistoryIsPublishedInOrder(t *testing.T) {
	t.Parallel()
	for name, relays := range map[string]int{"one relay": 1, "two relays": 2} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			seed := rand.Uint64()
			t.Logf("seed %d", seed)
			pool := testkit.Postgres(t)
			execute(t, pool, `CREATE TABLE aggregate (key text PRIMARY KEY, version bigint NOT NULL)`)
			for key := range historyKeys {
				execute(t, pool, `INSERT INTO aggregate VALUES ($1, 0)`, strconv.Itoa(key))
			}
			b := &chaoticBroker{}
			var writers, readers sync.WaitGroup
			var written atomic.Bool
			for i := range historyWriters {
				writers.Go(func() { write(t, pool, rand.New(rand.NewPCG(seed, uint64(i)))) })
			}
			for i := range relays {
				readers.Go(func() { relayUntil(t, pool, b, rand.New(rand.NewPCG(seed, uint64(1000+i))), &written) })
			}
			writers.Wait()
			written.Store(true)
			readers.Wait()
			calm := newStepper(t, pool) // what the others left
			calm.Publisher = b
			b.calm = true
			calm.drain(t)
			b.check(t, pool)
		})
	}
}

// write commits some transactions and rolls back others. Each follows the
// writer's rules: the aggregate first, the outbox last.
func write(t *testing.T, pool *pgxpool.Pool, r *rand.Rand) {
	for range historyRounds {
		err := pgx.BeginFunc(t.Context(), pool, func(tx pgx.Tx) error {
			if r.IntN(3) == 0 { // an early id, whatever it will have to wait for
				if _, err := tx.Exec(t.Context(), `SELECT pg_current_xact_id()`); err != nil {
					return err
				}
			}
			key := strconv.Itoa(r.IntN(historyKeys))
			if r.IntN(8) == 0 {
				if err := change(t.Context(), tx, r, key, errRollback); !errors.Is(err, errRollback) {
					return err
				}
			}
			for range 1 + r.IntN(2) {
				if err := change(t.Context(), tx, r, key, nil); err != nil {
					return err
				}
			}
			if r.IntN(6) == 0 {
				return errRollback
			}
			return nil
		})
		if err != nil && !errors.Is(err, errRollback) {
			t.Error(err)
			return
		}
	}
}

var errRollback = errors.New("changed our mind")

// change makes one change in a savepoint, which end ends.
func change(ctx context.Context, tx pgx.Tx, r *rand.Rand, key string, end error) error {
	return pgx.BeginFunc(ctx, tx, func(tx pgx.Tx) error {
		const q = `
			WITH a AS (UPDATE aggregate SET version = version + 1 WHERE key = $1 RETURNING version)
			SELECT outbox_append($1, version::text, '{}', '12345'), pg_sleep($2) FROM a`
		if _, err := tx.Exec(ctx, q, key, float64(r.IntN(4))/1000); err != nil {
			return err
		}
		return end
	})
}

// relayUntil relays, badly, until all is written and it finds nothing more.
func relayUntil(t *testing.T, pool *pgxpool.Pool, b *chaoticBroker, r *rand.Rand, written *atomic.Bool) {
	var rd *reader
	restart := func() {
		rd = newReader(t, pool, limits{rows: 1 + r.IntN(7), bytes: 1 + r.IntN(20), list: 1 + r.IntN(9)})
	}
	restart()
	for {
		last := written.Load()
		p, err := rd.next(t.Context())
		if err != nil && !errors.Is(err, errMoved) {
			t.Error(err)
			return
		}
		if len(p.rows) == 0 {
			if last {
				return
			}
			continue
		}
		results := b.publish(p.rows, r)
		if r.IntN(6) == 0 { // dies before it notes what it has published
			restart()
			continue
		}
		done, _, _ := judge(p.rows, results, false)
		if done == 0 {
			continue
		}
		if err := rd.settle(t.Context(), p, done, nil); err != nil && !errors.Is(err, errMoved) {
			t.Error(err)
			return
		}
	}
}

// chaoticBroker takes some messages and not others, within what a [Publisher]
// may do: of a key's messages it takes none before the previous one.
type chaoticBroker struct {
	mu    sync.Mutex
	calm  bool
	taken []Row
}

func (b *chaoticBroker) Publish(_ context.Context, rows []Row) []Result {
	return b.publish(rows, rand.New(rand.NewPCG(1, 1)))
}

func (b *chaoticBroker) publish(rows []Row, r *rand.Rand) []Result {
	results := make([]Result, len(rows))
	failed := map[string]bool{}
	for i, row := range rows {
		b.mu.Lock() // for each alone: two relays may take turns
		if failed[row.Key] || (!b.calm && r.IntN(5) == 0) {
			failed[row.Key], results[i].Err = true, errAway
		} else {
			b.taken = append(b.taken, row)
		}
		b.mu.Unlock()
	}
	return results
}

// check compares what was published with what was committed.
func (b *chaoticBroker) check(t *testing.T, pool *pgxpool.Pool) {
	t.Helper()
	first := map[string][]string{} // key to versions
	seen := map[string]bool{}
	for _, row := range b.taken {
		if !seen[row.MsgID.String()] {
			seen[row.MsgID.String()] = true
			first[row.Key] = append(first[row.Key], row.Subject)
		}
	}
	total := 0
	for key := range historyKeys {
		k := strconv.Itoa(key)
		n := ask[int](t, pool, `SELECT version FROM aggregate WHERE key = $1`, k)
		total += n
		want := make([]string, n) // a version that was rolled back was given again
		for i := range want {
			want[i] = strconv.Itoa(i + 1)
		}
		if !slices.Equal(first[k], want) {
			t.Errorf("key %s: published first in the order %v, want 1 to %d", k, first[k], n)
		}
	}
	if ids := ask[int](t, pool, `SELECT count(DISTINCT msg_id) FROM outbox`); ids != total || ids != len(seen) {
		t.Errorf("%d messages were committed with %d changes, %d published", ids, total, len(seen))
	}
	if total < historyWriters*historyRounds/2 || len(b.taken) == len(seen) {
		t.Errorf("%d messages, %d publications: nothing was tried", total, len(b.taken))
	}
	if t.Failed() {
		t.Log(fmt.Sprint(askAll[string](t, pool, `SELECT format('%s/%s seq %s xid %s', key, subject, seq, xid) FROM outbox ORDER BY seq`)))
	}
}

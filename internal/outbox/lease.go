package outbox

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
)

// defaultLease is how long a lane stays with a relay that is not heard of any
// more. A third of it is how often leases are renewed.
const defaultLease = 6 * time.Second

// lease is a relay's claim to its lanes. It is kept in outbox_lane, on the
// database's clock; here is how long we may rely on it, on ours.
//
// A relay that was stopped for longer than that, and does not know, may publish
// once more what another has published meanwhile. It can settle nothing: the
// lane has another owner and another epoch.
type lease struct {
	pool  *pgxpool.Pool
	owner string
	ttl   time.Duration

	shown time.Time // when we last asked for lanes

	mu      sync.Mutex
	renewed time.Time // when the lease began that we have
	until   time.Time // until then nobody else can have taken our lanes
}

// ownerName is unique: a name that is used again would hold old leases. It says
// where the process is, for people and for lease.gone.
func ownerName() string {
	host, err := os.Hostname()
	if err != nil {
		host = "unknown"
	}
	return fmt.Sprintf("%s:%s:%d:%s", host, place(), os.Getpid(), rand.Text()[:8])
}

// place is where a process id means one process: since this machine was
// started, in this container. Empty: we do not know.
func place() string {
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return ""
	}
	space, err := os.Readlink("/proc/self/ns/pid")
	if err != nil {
		return ""
	}
	return fmt.Sprintf("%x", sha256.Sum256(append(boot, space...)))[:8]
}

// gone says that the process of an owner has surely ended: a relay that is
// started again where another has crashed need not wait for its lease. Were it
// wrong, some messages would be published twice.
func (l *lease) gone(owner string) bool {
	part, ours := strings.Split(owner, ":"), strings.Split(l.owner, ":")
	if len(part) != 4 || len(ours) != 4 || part[1] == "" || part[1] != ours[1] {
		return false
	}
	pid, err := strconv.Atoi(part[2])
	if err != nil {
		return false
	}
	process, err := os.FindProcess(pid)
	return err == nil && errors.Is(process.Signal(syscall.Signal(0)), os.ErrProcessDone)
}

// bury ends the leases of an owner that is gone.
func (l *lease) bury(ctx context.Context, owner string) error {
	const q = `
		WITH gone AS (DELETE FROM outbox_relay WHERE relay = $1)
		UPDATE outbox_lane SET lease_until = clock_timestamp() WHERE owner = $1`
	if _, err := l.pool.Exec(ctx, q, owner); err != nil {
		return fmt.Errorf("end the lease of %s: %w", owner, err)
	}
	return nil
}

// granted notes that when we asked, our lanes were ours for so long. A sixth of
// the lease is kept as a margin: clocks differ in speed, and a page takes time.
func (l *lease) granted(asked time.Time, left time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.renewed = asked.Add(left - l.ttl)
	l.until = asked.Add(left - l.ttl/6)
}

// holds says whether our lanes are still ours.
func (l *lease) holds() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return time.Now().Before(l.until)
}

// lost notes that we hold nothing, or do not know.
func (l *lease) lost() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.until = time.Time{}
}

// renew is part of every look, and writes only when it is time: a relay that
// looks asks for nothing besides. It is written with synchronous_commit off: to
// lose it in a crash only ends the lease early.
const renew = `
	durability AS MATERIALIZED (SELECT set_config('synchronous_commit', 'off', true)),
	renewed AS (
		UPDATE outbox_lane SET lease_until = clock_timestamp() + make_interval(secs => $7) FROM durability
		WHERE owner = $6 AND lease_until < clock_timestamp() + make_interval(secs => $7) * 2 / 3 RETURNING lane)`

// keep renews the lease while the relay is not looking, because it publishes
// for long or waits to try again. It returns when ctx is cancelled.
func (l *lease) keep(ctx context.Context) {
	t := time.NewTicker(l.ttl / 6)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
		l.mu.Lock()
		due := !l.until.IsZero() && time.Since(l.renewed) > l.ttl/2
		l.mu.Unlock()
		if due {
			l.extend(ctx)
		}
	}
}

// extend renews by a statement of its own. What fails is tried again soon, and
// the relay's own statements will say why.
func (l *lease) extend(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, l.ttl/3)
	defer cancel()
	asked := time.Now()
	const q = `
		WITH durability AS MATERIALIZED (SELECT set_config('synchronous_commit', 'off', true))
		UPDATE outbox_lane SET lease_until = clock_timestamp() + make_interval(secs => $2) FROM durability WHERE owner = $1`
	tag, err := l.pool.Exec(ctx, q, l.owner, l.ttl.Seconds())
	if err == nil && tag.RowsAffected() > 0 {
		l.granted(asked, l.ttl)
	}
}

// mustShow says whether it is time to say again that we wait for a lane.
func (l *lease) mustShow() bool { return time.Since(l.shown) > l.ttl/3 }

// claim takes up to so many lanes that nobody holds. It also says, for one
// lease, that we are there and would like to have some.
func (l *lease) claim(ctx context.Context, most int) (taken int, err error) {
	const q = `
		WITH waits AS (
			INSERT INTO outbox_relay (relay, seen_until) VALUES ($1, clock_timestamp() + make_interval(secs => $2))
			ON CONFLICT (relay) DO UPDATE SET seen_until = excluded.seen_until
		), forgotten AS (
			DELETE FROM outbox_relay WHERE seen_until < clock_timestamp() - interval '1 hour' AND relay <> $1
		), free AS (
			SELECT lane FROM outbox_lane WHERE owner IS NULL OR lease_until <= clock_timestamp()
			ORDER BY lane LIMIT $3 FOR UPDATE SKIP LOCKED
		)
		UPDATE outbox_lane l SET owner = $1, epoch = l.epoch + 1, lease_until = clock_timestamp() + make_interval(secs => $2)
		FROM free WHERE l.lane = free.lane AND (l.owner IS NULL OR l.lease_until <= clock_timestamp())`
	l.shown = time.Now()
	tag, err := l.pool.Exec(ctx, q, l.owner, l.ttl.Seconds(), most)
	if err != nil {
		return 0, fmt.Errorf("claim outbox lanes: %w", err)
	}
	return int(tag.RowsAffected()), nil
}

// release lets go of lanes; nil: of all, because we stop.
func (l *lease) release(ctx context.Context, lanes []int16) error {
	const q = `
		WITH gone AS (DELETE FROM outbox_relay WHERE relay = $1 AND $2::smallint[] IS NULL)
		UPDATE outbox_lane SET owner = NULL, lease_until = NULL WHERE owner = $1 AND ($2 IS NULL OR lane = ANY ($2))`
	if _, err := l.pool.Exec(ctx, q, l.owner, lanes); err != nil {
		return fmt.Errorf("release outbox lanes: %w", err)
	}
	return nil
}

package coordinator

import (
	"encoding/json"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/skald-saga/skald/internal/outbox"
)

// uuids is an array of UUIDs that the driver encodes as such. An array of
// uuid.UUID takes the way through text, which costs a tenth of the engine.
type uuids = [][16]byte

// queueUpdate stores the new states in place. A row that is not as it was read
// is not overwritten: the transaction then fails, and with it all that follows.
func queueUpdate(b *pgx.Batch, rows []*row) {
	const q = `
		WITH changed AS (
			UPDATE saga s SET version = u.version, status = u.status, state = u.state, wake_at = u.wake_at, updated_at = u.updated_at,
			       command_xid = CASE WHEN u.commands THEN pg_current_xact_id() ELSE s.command_xid END
			FROM unnest($1::uuid[], $2::bigint[], $3::timestamptz[], $4::timestamptz[], $5::bigint[], $6::text[], $7::json[],
			            $8::timestamptz[], $9::timestamptz[], $10::boolean[])
			  AS u (id, read_version, read_updated, read_wake, version, status, state, wake_at, updated_at, commands)
			WHERE s.id = u.id AND s.version = u.read_version AND s.updated_at = u.read_updated AND s.wake_at IS NOT DISTINCT FROM u.read_wake
			RETURNING 1)
		SELECT saga_all_changed(count(*), cardinality($1)) FROM changed`
	var (
		ids                  uuids
		readVersion, version []int64
		readUpdated, updated []time.Time
		readWake, wakeAt     []*time.Time
		status, states       []string
		commands             []bool
	)
	for _, r := range rows {
		if !r.changed() {
			continue
		}
		state, err := json.Marshal(r.state)
		if err != nil { // cannot be: a state is strings, numbers and times, and results that were valid JSON
			state = []byte(err.Error()) // refused by the column's type
		}
		ids, readVersion, version = append(ids, r.id), append(readVersion, r.read.version), append(version, r.version)
		readUpdated, readWake = append(readUpdated, r.read.updated), append(readWake, orNil(r.read.wakeAt))
		status, states = append(status, string(r.state.Status)), append(states, string(state))
		wakeAt, updated, commands = append(wakeAt, orNil(r.wakeAt)), append(updated, r.updated), append(commands, len(r.commands) > 0)
	}
	if len(ids) > 0 {
		b.Queue(q, ids, readVersion, readUpdated, readWake, version, status, states, wakeAt, updated, commands)
	}
}

func queueHistory(b *pgx.Batch, rows []*row) {
	const q = `
		INSERT INTO saga_history (saga_id, version, at, entries)
		SELECT * FROM unnest($1::uuid[], $2::bigint[], $3::timestamptz[], $4::json[])`
	var (
		ids     uuids
		version []int64
		at      []time.Time
		entries []string
	)
	for _, r := range rows {
		for _, t := range r.history {
			ids, version = append(ids, r.id), append(version, t.version)
			at, entries = append(at, t.at), append(entries, string(t.entries))
		}
	}
	if len(ids) > 0 {
		b.Queue(q, ids, version, at, entries)
	}
}

func queueTimers(b *pgx.Batch, rows []*row) {
	const q = `
		INSERT INTO saga_timer (due_at, saga_id, withheld)
		SELECT * FROM unnest($1::timestamptz[], $2::uuid[], $3::boolean[])`
	var (
		due  []time.Time
		ids  uuids
		held []bool
	)
	for _, r := range rows {
		if !r.due.IsZero() {
			due, ids, held = append(due, r.due), append(ids, r.id), append(held, r.held)
		}
	}
	if len(ids) > 0 {
		b.Queue(q, due, ids, held)
	}
}

func queueMessages(b *pgx.Batch, rows []*row) {
	// Commands first: a saga must not wait for those who only listen to it.
	var messages []outbox.Message
	for _, r := range rows {
		messages = append(messages, r.commands...)
	}
	for _, r := range rows {
		messages = append(messages, r.events...)
	}
	if len(messages) > 0 {
		outbox.Queue(b, messages)
	}
}

// staleReply is a reply that changed nothing, and why.
type staleReply struct {
	At       time.Time `json:"at"`
	EffectID string    `json:"effect_id"`
	Attempt  int       `json:"attempt,omitempty"`
	Outcome  string    `json:"outcome"`
	Reason   string    `json:"reason"`
}

// queueStale records them outside the saga's row: the first 20, and a count.
func queueStale(b *pgx.Batch, rows []*row) {
	const q = `
		INSERT INTO saga_stale_reply AS s (saga_id, count, replies)
		SELECT * FROM unnest($1::uuid[], $2::int[], $3::jsonb[])
		ON CONFLICT (saga_id) DO UPDATE SET count = s.count + excluded.count,
		       replies = jsonb_path_query_array(s.replies || excluded.replies, '$[0 to 19]')`
	var (
		ids     uuids
		counts  []int
		replies []string
	)
	for _, r := range rows {
		if len(r.staleSeen) == 0 {
			continue
		}
		kept, err := json.Marshal(r.staleSeen[:min(len(r.staleSeen), 20)])
		if err != nil { // cannot be: strings and numbers
			kept = []byte("[]")
		}
		ids, counts, replies = append(ids, r.id), append(counts, len(r.staleSeen)), append(replies, string(kept))
	}
	if len(ids) > 0 {
		b.Queue(q, ids, counts, replies)
	}
}

// deadLetter is a reply that could not be read or that answers no saga.
type deadLetter struct {
	at      time.Time
	subject string
	headers []byte
	payload []byte
	reason  string
}

func queueDead(b *pgx.Batch, dead []deadLetter) {
	for _, d := range dead {
		b.Queue(`INSERT INTO dead_letter (at, subject, headers, payload, reason) VALUES ($1, $2, $3, $4, $5)`,
			d.at, printable(d.subject), string(d.headers), d.payload, printable(d.reason))
	}
}

func queueBeside(b *pgx.Batch, rows []*row) {
	for _, r := range rows {
		for _, what := range r.beside {
			what.queue(b)
		}
	}
}

// printable is what Postgres can store as text: valid UTF-8 without NUL.
func printable(s string) string {
	return strings.ReplaceAll(strings.ToValidUTF8(s, "\ufffd"), "\x00", "\ufffd")
}

func orNil(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return &t
}

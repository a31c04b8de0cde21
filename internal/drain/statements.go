package drain

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// statements are what a mapping comes to. Ids and order values travel as text,
// whatever their types are.
type statements struct {
	first, next string // the first page of the table; a page from an order value on
	done        string // settles rows; returns how many of them are pending all the same
	bury        string // marks a row as dead, likewise; empty: not wanted
	table       string
}

// errStillPending says that the mapping would publish the same rows for ever.
var errStillPending = fmt.Errorf("%w: what settle or dead sets does not take rows out of pending", ErrMistaken)

func (m *Mapping) statements(ctx context.Context, pool *pgxpool.Pool) (statements, error) {
	t, err := look(ctx, pool, m.Table)
	if err != nil {
		return statements{}, err
	}
	if t.columns[m.ID].kind == "" || t.columns[m.Order].kind == "" {
		return statements{}, Mistakes{"the table is not as it was"}
	}
	return m.on(t), nil
}

// on makes the statements for a table.
func (m *Mapping) on(t table) statements {
	pending := "true"
	if m.Pending != "" {
		pending = m.Pending + "\n" // which may end with a comment
	}
	id, order := quote(m.ID), quote(m.Order)
	key := id + "::text"
	if m.Key != "" {
		key = "coalesce(" + quote(m.Key) + "::text, " + id + "::text)"
	}
	at := "clock_timestamp()"
	if m.Time != "" {
		at = "coalesce(" + quote(m.Time) + "::timestamptz, clock_timestamp())"
	}
	page := func(from string) string {
		return `
		SELECT id, ord, key, subject, headers, payload, at FROM (
			SELECT *, sum(octet_length(payload)) OVER (ORDER BY n ROWS UNBOUNDED PRECEDING) - octet_length(payload) AS before FROM (
				SELECT ` + id + `::text AS id, coalesce(` + order + `::text, '') AS ord, ` + key + ` AS key, coalesce(` + sqlOf(m.Subject) + `, '') AS subject,
				       ` + m.headers() + ` AS headers, ` + m.payload(t) + ` AS payload, ` + at + ` AS at, row_number() OVER (ORDER BY ` + order + `, ` + id + `) AS n
				FROM ` + t.name + ` WHERE (` + pending + `) AND ` + id + `::text <> ALL ($1) AND ` + key + ` <> ALL ($2)` + from + `
				ORDER BY ` + order + `, ` + id + ` LIMIT $3) p) p
		WHERE before < $4 ORDER BY n`
	}
	these := ` WHERE ` + id + ` = ANY ($1::text[]::` + t.columns[m.ID].kind + `[])`
	count := func(change, still string) string {
		return `WITH s AS (` + change + ` RETURNING (` + still + `) AS still) SELECT count(*) FROM s WHERE still`
	}
	s := statements{
		table: t.name,
		first: page(""),
		next:  page(` AND ` + order + ` >= $5::text::` + t.columns[m.Order].kind),
		done:  count(`DELETE FROM `+t.name+these, "false"),
	}
	if !m.Settle.Delete {
		s.done = count(`UPDATE `+t.name+` SET `+assignments(m.Settle.Set)+these, pending)
	}
	if len(m.Dead.Set) > 0 {
		set := strings.ReplaceAll(assignments(m.Dead.Set), "{error}", "$2::text")
		s.bury = count(`UPDATE `+t.name+` SET `+set+these+` AND $2::text IS NOT NULL`, pending)
	}
	return s
}

func (m *Mapping) headers() string {
	base := "'{}'"
	if m.Headers != "" {
		base = "coalesce(" + quote(m.Headers) + "::text, '{}')"
	}
	if len(m.Header) == 0 {
		return base
	}
	var pairs []string
	for name, text := range m.Header {
		pairs = append(pairs, literal(name)+", "+sqlOf(text))
	}
	slices.Sort(pairs)
	// What the row says itself counts for more than what the file says of all.
	return "(jsonb_strip_nulls(jsonb_build_object(" + strings.Join(pairs, ", ") + ")) || " + base + "::jsonb)::text"
}

func (m *Mapping) payload(t table) string {
	p := quote(m.Payload)
	if t.columns[m.Payload].kind != "bytea" {
		p = "convert_to(" + p + "::text, 'UTF8')"
	}
	return "coalesce(" + p + ", '')"
}

func assignments(set map[string]string) string {
	var all []string
	for column, expression := range set {
		all = append(all, quote(column)+" = ("+expression+"\n)")
	}
	slices.Sort(all)
	return strings.Join(all, ", ")
}

// page reads the next rows that are pending, but not those that are to wait or
// that can never be published.
func (r *run) page(ctx context.Context, now time.Time) ([]row, error) {
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	limit := pageRows
	if r.pageRows > 0 {
		limit = r.pageRows
	}
	sql, args := r.first, []any{names(r.skipped), names(r.held), limit, pageBytes}
	if from, ok := r.floor(now); ok {
		sql, args = r.next, append(args, from)
	}
	found, err := r.Pool.Query(ctx, sql, args...)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", r.table, err)
	}
	rows, err := pgx.CollectRows(found, func(c pgx.CollectableRow) (row, error) {
		var w row
		var headers string
		err := c.Scan(&w.id, &w.order, &w.Key, &w.Subject, &headers, &w.Payload, &w.CreatedAt)
		w.Headers, w.MsgID = []byte(headers), messageID(r.Mapping.Lease, w.id)
		return w, err
	})
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", r.table, err)
	}
	return rows, nil
}

func names(set map[string]bool) []string {
	list := make([]string, 0, len(set))
	for name := range set {
		list = append(list, name)
	}
	return list
}

// space is the namespace of message ids that are made of other ids (RFC 9562, version 5).
var space = uuid.MustParse("5b3b0e0c-6f39-4d5c-9a53-0f2f6a8f6d11")

// messageID is the same whenever the row is published: its id, if that is a
// UUID, and else one that is made of it.
func messageID(name, id string) uuid.UUID {
	if u, err := uuid.Parse(id); err == nil {
		return u
	}
	return uuid.NewSHA1(space, []byte(name+"\n"+id))
}

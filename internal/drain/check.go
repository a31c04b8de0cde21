package drain

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
)

// table is what the catalog says of a table.
type table struct {
	oid     uint32
	name    string // as SQL
	columns map[string]column
}

type column struct {
	kind             string // its type, as SQL
	notNull          bool
	readable, settle bool // whether it may be selected, and updated
}

var errStandby = errors.New("the database is a standby: only a primary can be drained")

// look reads the catalog. An error that is [Mistakes] will not pass.
func look(ctx context.Context, pool *pgxpool.Pool, name string) (table, error) {
	t := table{name: pgx.Identifier(strings.Split(name, ".")).Sanitize(), columns: map[string]column{}}
	var oid *uint32
	var kind *string
	var standby bool
	const find = `SELECT c.oid, c.relkind::text, pg_is_in_recovery() FROM (VALUES (to_regclass($1))) AS n (oid) LEFT JOIN pg_class c ON c.oid = n.oid`
	if err := pool.QueryRow(ctx, find, t.name).Scan(&oid, &kind, &standby); err != nil {
		return table{}, fmt.Errorf("look for table %s: %w", name, err)
	}
	switch {
	case standby:
		return table{}, errStandby
	case oid == nil:
		return table{}, Mistakes{"table: there is no " + name}
	case *kind != "r" && *kind != "p":
		return table{}, Mistakes{"table: " + name + " is not a table"}
	}
	t.oid = *oid
	const columns = `
		SELECT attname, format_type(atttypid, atttypmod), attnotnull,
		       has_column_privilege(attrelid, attnum, 'SELECT'), has_column_privilege(attrelid, attnum, 'UPDATE')
		FROM pg_attribute WHERE attrelid = $1 AND attnum > 0 AND NOT attisdropped`
	rows, err := pool.Query(ctx, columns, t.oid)
	if err != nil {
		return table{}, fmt.Errorf("look at the columns of %s: %w", name, err)
	}
	var of string
	var c column
	_, err = pgx.ForEachRow(rows, []any{&of, &c.kind, &c.notNull, &c.readable, &c.settle}, func() error {
		t.columns[of] = c
		return nil
	})
	if err != nil {
		return table{}, fmt.Errorf("look at the columns of %s: %w", name, err)
	}
	return t, nil
}

// Check looks at the table before anything is published. What cannot work is in
// the error, which is [Mistakes]; any other error may pass. The warnings are of
// what works, but badly.
func (m *Mapping) Check(ctx context.Context, pool *pgxpool.Pool) (warnings []string, err error) {
	t, err := look(ctx, pool, m.Table)
	if err != nil {
		return nil, err
	}
	bad := m.badColumns(t)
	for _, check := range []func(context.Context, *pgxpool.Pool, table) (Mistakes, error){m.badRights, m.badID} {
		more, err := check(ctx, pool, t)
		if err != nil {
			return nil, err
		}
		bad = append(bad, more...)
	}
	if len(bad) == 0 {
		if bad, err = m.badSQL(ctx, pool, t); err != nil {
			return nil, err
		}
	}
	if len(bad) > 0 {
		slices.Sort(bad)
		return nil, slices.Compact(bad)
	}
	return m.weaknesses(ctx, pool, t)
}

func (m *Mapping) badColumns(t table) (bad Mistakes) {
	for place, name := range m.columns() {
		place, _, _ = strings.Cut(place, " ")
		c, there := t.columns[name]
		switch {
		case !there:
			bad = append(bad, fmt.Sprintf("%s: %s has no column %s", place, m.Table, name))
			continue
		case !c.readable:
			bad = append(bad, fmt.Sprintf("%s: no right to SELECT column %s", place, name))
		}
		kind, _, _ := strings.Cut(c.kind, "(")
		var want []string
		switch place {
		case "payload":
			want = []string{"bytea", "text", "character varying", "json", "jsonb"}
		case "headers":
			want = []string{"json", "jsonb", "text"}
		case "time":
			want = []string{"timestamp with time zone", "timestamp without time zone"}
		}
		if want != nil && !slices.Contains(want, kind) {
			bad = append(bad, fmt.Sprintf("%s: column %s is %s, want %s", place, name, c.kind, strings.Join(want, ", ")))
		}
	}
	for place, set := range map[string]map[string]string{"settle": m.Settle.Set, "dead": m.Dead.Set} {
		for name := range set {
			if c, there := t.columns[name]; !there {
				bad = append(bad, fmt.Sprintf("%s: %s has no column %s", place, m.Table, name))
			} else if !c.settle {
				bad = append(bad, fmt.Sprintf("%s: no right to UPDATE column %s", place, name))
			}
		}
	}
	return bad
}

// badRights looks for the right to delete, and for the lease's table.
func (m *Mapping) badRights(ctx context.Context, pool *pgxpool.Pool, t table) (bad Mistakes, err error) {
	const q = `
		SELECT has_table_privilege($1::oid, 'DELETE'), l.oid IS NOT NULL,
		       coalesce(has_table_privilege(l.oid, 'SELECT') AND has_table_privilege(l.oid, 'INSERT') AND has_table_privilege(l.oid, 'UPDATE'), false)
		FROM (VALUES (to_regclass('relay_drain'))) AS l (oid)`
	var remove, lease, mayLease bool
	if err := pool.QueryRow(ctx, q, t.oid).Scan(&remove, &lease, &mayLease); err != nil {
		return nil, fmt.Errorf("look at rights: %w", err)
	}
	if m.Settle.Delete && !remove {
		bad = append(bad, "settle: no right to DELETE from "+m.Table)
	}
	if !lease {
		bad = append(bad, "there is no table relay_drain: `relay install --drain` makes it")
	} else if !mayLease {
		bad = append(bad, "no right to SELECT, INSERT and UPDATE on relay_drain")
	}
	return bad, nil
}

// badID wants ids that stand for one row: else settling one would take others
// along that were not published.
func (m *Mapping) badID(ctx context.Context, pool *pgxpool.Pool, t table) (bad Mistakes, err error) {
	const q = `
		SELECT EXISTS (SELECT FROM pg_index i JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[0]
		WHERE i.indrelid = $1 AND i.indisunique AND i.indisvalid AND i.indnkeyatts = 1 AND i.indpred IS NULL AND a.attname = $2)`
	var unique bool
	if err := pool.QueryRow(ctx, q, t.oid, m.ID).Scan(&unique); err != nil {
		return nil, fmt.Errorf("look for a unique index: %w", err)
	}
	c, there := t.columns[m.ID]
	switch {
	case !there:
	case !unique:
		bad = append(bad, "id: column "+m.ID+" has no unique index of its own")
	case !c.notNull:
		bad = append(bad, "id: column "+m.ID+" may be null")
	}
	return bad, nil
}

// badSQL has the database look at the statements, without running them.
func (m *Mapping) badSQL(ctx context.Context, pool *pgxpool.Pool, t table) (bad Mistakes, err error) {
	conn, err := pool.Acquire(ctx)
	if err != nil {
		return nil, fmt.Errorf("acquire connection: %w", err)
	}
	defer conn.Release()
	s := m.on(t)
	pending := ""
	if m.Pending != "" {
		pending = `SELECT FROM ` + t.name + ` WHERE (` + m.Pending + "\n)"
	}
	for _, part := range []struct{ place, sql string }{
		{"pending", pending}, {"settle", s.done}, {"dead", s.bury}, {"the mapping", s.first}, {"order", s.next},
	} {
		if part.sql == "" {
			continue
		}
		_, err := conn.Conn().Prepare(ctx, "", part.sql)
		var refused *pgconn.PgError
		switch {
		case err == nil:
		case !errors.As(err, &refused) || !slices.Contains([]string{"42", "22"}, refused.Code[:2]): // what the SQL says
			return nil, fmt.Errorf("look at the statements: %w", err)
		default:
			return append(bad, part.place+": "+refused.Message), nil // the others hold the same
		}
	}
	return bad, nil
}

// weaknesses are what makes a table slow to drain, or its service slow.
func (m *Mapping) weaknesses(ctx context.Context, pool *pgxpool.Pool, t table) (warnings []string, err error) {
	var indexed bool
	const index = `
		SELECT EXISTS (SELECT FROM pg_index i JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[0]
		JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_am am ON am.oid = c.relam
		WHERE i.indrelid = $1 AND i.indisvalid AND am.amname = 'btree' AND a.attname = $2)`
	if err := pool.QueryRow(ctx, index, t.oid, m.Order).Scan(&indexed); err != nil {
		return nil, fmt.Errorf("look for an index: %w", err)
	}
	if !indexed {
		warnings = append(warnings, "no index begins with column "+m.Order+": each page is a look at the whole table")
	}
	if !t.columns[m.Order].notNull {
		warnings = append(warnings, "column "+m.Order+" may be null: such rows are published up to "+rescanEvery.String()+" late")
	}
	for _, look := range []struct{ sql, format string }{
		{`SELECT g.tgname FROM pg_trigger g JOIN pg_proc p ON p.oid = g.tgfoid
		  WHERE g.tgrelid = $1::bigint::oid AND NOT g.tgisinternal AND g.tgenabled <> 'D' AND p.prosrc ~* '\mnotify\M|\mpg_notify\M' ORDER BY 1`,
			"trigger %s uses NOTIFY: all commits of the database that do wait for each other"},
		{`SELECT concat_ws(', ', 'database ' || (SELECT datname FROM pg_database d WHERE d.oid = setdatabase), 'role ' || nullif(setrole, 0)::regrole)
		  FROM pg_db_role_setting WHERE 'synchronous_commit=off' = ANY (setconfig) AND $1::bigint > 0
		    AND (setdatabase = 0 OR setdatabase = (SELECT oid FROM pg_database WHERE datname = current_database()))
		  UNION ALL
		  SELECT 'the server' FROM pg_settings WHERE name = 'synchronous_commit' AND reset_val = 'off'
		    AND source NOT IN ('database', 'user', 'database user') ORDER BY 1`,
			"synchronous_commit is off for %s: a crash may take back what a writer was told is committed; it is published only once it is on disk"},
	} {
		rows, err := pool.Query(ctx, look.sql, int64(t.oid))
		if err != nil {
			return nil, fmt.Errorf("look for weaknesses: %w", err)
		}
		found, err := pgx.CollectRows(rows, pgx.RowTo[string])
		if err != nil {
			return nil, fmt.Errorf("look for weaknesses: %w", err)
		}
		for _, name := range found {
			warnings = append(warnings, fmt.Sprintf(look.format, name))
		}
	}
	return warnings, nil
}

package outbox

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// ErrNoOutbox says that a database does not have what a relay needs, and that
// waiting will not bring it.
var ErrNoOutbox = errors.New("this database has no outbox that can be relayed")

var errStandby = errors.New("the database is a standby: only a primary can be relayed")

// Check asks whether the database has an outbox that a relay can publish: the
// tables, their columns, the rights. All that is missing is in the error, which
// is [ErrNoOutbox]. One that was restored into this cluster is [ErrRestored].
// Any other error may pass. It knows nothing of other tables,
// and nothing of the way in which these came to be.
func Check(ctx context.Context, pool *pgxpool.Pool) error {
	const q = `
		SELECT r.t, to_regclass(r.t) IS NOT NULL,
		       ARRAY(SELECT c FROM unnest(r.columns) WITH ORDINALITY AS u (c, n) WHERE NOT EXISTS (
		         SELECT FROM pg_attribute a WHERE a.attrelid = to_regclass(r.t) AND a.attname = c AND NOT a.attisdropped) ORDER BY n),
		       ARRAY(SELECT p FROM unnest(r.rights) WITH ORDINALITY AS u (p, n) WHERE NOT has_table_privilege(to_regclass(r.t), p) ORDER BY n),
		       pg_is_in_recovery()
		FROM (VALUES
		  ('outbox', '{seq,xid,lane,key,msg_id,subject,headers,payload,created_at}'::text[], '{SELECT}'::text[]),
		  ('outbox_0', '{}', '{SELECT,TRUNCATE}'), ('outbox_1', '{}', '{SELECT,TRUNCATE}'),
		  ('outbox_2', '{}', '{SELECT,TRUNCATE}'), ('outbox_3', '{}', '{SELECT,TRUNCATE}'),
		  ('outbox_ring', '{current_slot,switched_at}', '{SELECT,UPDATE}'),
		  ('outbox_tick', '{lane,taken_at,snap_from}', '{SELECT,INSERT,DELETE}'),
		  ('outbox_lane', '{lane,snap_from,snap_to,pos,owner,epoch,lease_until}', '{SELECT,UPDATE}'),
		  ('outbox_relay', '{relay,seen_until}', '{SELECT,INSERT,UPDATE,DELETE}'),
		  ('outbox_parked', '{id,seq,lane,key,msg_id,subject,headers,payload,created_at,error}', '{SELECT,INSERT,DELETE}'),
		  ('outbox_dead', '{seq,lane,key,msg_id,subject,headers,payload,created_at,error}', '{SELECT,INSERT}')
		) AS r (t, columns, rights)`
	rows, err := pool.Query(ctx, q)
	if err != nil {
		return fmt.Errorf("look for the outbox: %w", err)
	}
	var missing []string
	var table string
	var exists, standby bool
	var columns, rights []string
	_, err = pgx.ForEachRow(rows, []any{&table, &exists, &columns, &rights, &standby}, func() error {
		switch {
		case !exists:
			missing = append(missing, "no table "+table)
		case len(columns) > 0:
			missing = append(missing, "no column "+strings.Join(columns, ", ")+" in "+table)
		case len(rights) > 0:
			missing = append(missing, "no right to "+strings.Join(rights, ", ")+" on "+table)
		}
		return nil
	})
	switch {
	case err != nil:
		return fmt.Errorf("look for the outbox: %w", err)
	case len(missing) > 0:
		return fmt.Errorf("%w: %s", ErrNoOutbox, strings.Join(missing, "; "))
	case standby:
		return errStandby
	}
	return checkPosition(ctx, pool)
}

// checkPosition looks at what is inside the tables.
func checkPosition(ctx context.Context, pool *pgxpool.Pool) error {
	const q = `
		SELECT (SELECT array_agg(lane ORDER BY lane) FROM outbox_lane),
		       coalesce((SELECT substring(pg_get_expr(d.adbin, d.adrelid) FROM 'outbox_lane_of\(key, (\d+)\)')::int FROM pg_attribute a
		         JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
		         WHERE a.attrelid = 'outbox'::regclass AND a.attname = 'lane' AND a.attgenerated <> ''), 1),
		       coalesce((SELECT seqcache FROM pg_sequence WHERE seqrelid = to_regclass('outbox_seq')), 1)`
	var lanes []int16
	var writers, cache int64
	if err := pool.QueryRow(ctx, q).Scan(&lanes, &writers, &cache); err != nil {
		return fmt.Errorf("look for the outbox: %w", err)
	}
	for lane := range writers {
		if int64(len(lanes)) != writers || int64(lanes[lane]) != lane {
			// A lane without a row would never be published.
			return fmt.Errorf("%w: writers use the lanes 0 to %d, outbox_lane has rows for %v", ErrNoOutbox, writers-1, lanes)
		}
	}
	var ahead bool
	if err := pool.QueryRow(ctx, isAhead).Scan(&ahead); err != nil {
		return fmt.Errorf("look for the outbox: %w", err)
	}
	if ahead {
		return ErrRestored
	}
	if cache != 1 {
		// Two sessions would then write a key's messages out of order.
		return fmt.Errorf("%w: sequence outbox_seq must have CACHE 1, not %d", ErrNoOutbox, cache)
	}
	return nil
}

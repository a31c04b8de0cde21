package coordinator

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/skald-saga/skald/internal/inputschema"
	"github.com/skald-saga/skald/internal/saga"
)

// DefinitionInfo is a definition by its name.
type DefinitionInfo struct {
	Current          DefinitionVersion
	DeprecatedAt     *time.Time // nil: it may be started
	DeprecatedReason string
}

// DefinitionVersion is one immutable version of a definition.
type DefinitionVersion struct {
	Name      string
	Version   int
	Digest    string
	CreatedAt time.Time
	Current   bool            // new sagas use it
	Source    json.RawMessage // in canonical form

	Open map[saga.Status]int // its sagas that have not ended; only where it is said
}

// Register stores the definitions that the servers' files hold, each under its
// next version unless the same content is stored already. They become the ones
// that new sagas use if the files say something else than the last time: what
// was put since then stands.
func (c *Coordinator) Register(ctx context.Context, defs ...*saga.Definition) error {
	for _, def := range defs {
		if _, _, err := c.define(ctx, def, nil); err != nil {
			return err
		}
	}
	return nil
}

// ParseDefinition reads a definition and checks all of it. An error is a
// [*saga.ParseError].
func ParseDefinition(text []byte) (*saga.Definition, error) {
	return saga.Parse(text, func(def *saga.Definition) []saga.Problem {
		_, wrong := inputschema.Compile(def.InputSchema)
		found := make([]saga.Problem, len(wrong))
		for i, p := range wrong {
			place := strings.Join(append([]string{"input_schema"}, p.Path...), ".")
			found[i] = saga.Problem{Path: append([]string{"input_schema"}, p.Path...), Detail: place + ": " + p.Detail}
		}
		return found
	})
}

// Defined is what [Coordinator.Define] did.
type Defined struct {
	Version    int
	Deprecated bool
}

// Define stores a definition and makes it the one that new sagas use: on this
// server at once, on others within a second. The same content twice is the same
// version; created says whether this is a new one.
func (c *Coordinator) Define(ctx context.Context, def *saga.Definition, op Operation) (stored Defined, created bool, err error) {
	stored, created, err = c.define(ctx, def, &op)
	if created {
		c.Log.InfoContext(ctx, "definition has a new version", "definition", def.Name, "version", stored.Version)
	}
	return stored, created, err
}

// define stores a definition: what an operator gives, or what files hold.
func (c *Coordinator) define(ctx context.Context, def *saga.Definition, op *Operation) (stored Defined, created bool, err error) {
	// The servers' files change what is current only if they have changed.
	const use = `
		INSERT INTO definition_name AS n (name, current_id, file_id) VALUES ($1, $2::int, CASE WHEN $3 THEN $2::int END)
		ON CONFLICT (name) DO UPDATE SET
			current_id = CASE WHEN $3 AND n.file_id = excluded.file_id THEN n.current_id ELSE excluded.current_id END,
			file_id = CASE WHEN $3 THEN excluded.file_id ELSE n.file_id END
		RETURNING deprecated_at IS NOT NULL`
	err = pgx.BeginFunc(ctx, c.Pool, func(tx pgx.Tx) error {
		// One at a time: versions are numbered without gaps.
		if _, err := tx.Exec(ctx, `SELECT pg_advisory_xact_lock(hashtext('skald definition'), hashtext($1))`, def.Name); err != nil {
			return err
		}
		var id int32
		if id, stored.Version, created, err = store(ctx, tx, def, c.now()); err != nil {
			return err
		}
		if err := tx.QueryRow(ctx, use, def.Name, id, op == nil).Scan(&stored.Deprecated); err != nil || op == nil {
			return err
		}
		return auditDefinition(ctx, tx, *op, "define", def.Name, created, map[string]int{"version": stored.Version}, c.now())
	})
	if err != nil {
		return Defined{}, false, fmt.Errorf("store definition %s: %w", def.Name, err)
	}
	c.definitions.forgetNames()
	c.Metrics.expect(def.Name)
	if created {
		c.Defined()
	}
	return stored, created, nil
}

// store finds a definition's content, or adds it as the next version. A program
// that takes no lock may have taken the number: it is tried again.
func store(ctx context.Context, tx pgx.Tx, def *saga.Definition, now time.Time) (id int32, version int, created bool, err error) {
	const insert = `
		INSERT INTO definition (name, version, digest, source, created_at)
		SELECT $1, 1 + coalesce(max(version), 0), $2, $3, $4 FROM definition WHERE name = $1
		ON CONFLICT DO NOTHING RETURNING id, version`
	const find = `SELECT id, version FROM definition WHERE name = $1 AND digest = $2`
	for range 10 {
		err = tx.QueryRow(ctx, find, def.Name, def.Digest).Scan(&id, &version)
		if !errors.Is(err, pgx.ErrNoRows) {
			return id, version, false, err
		}
		err = tx.QueryRow(ctx, insert, def.Name, def.Digest, def.Source, now).Scan(&id, &version)
		if !errors.Is(err, pgx.ErrNoRows) {
			return id, version, true, err
		}
	}
	return 0, 0, false, errors.New("other servers keep registering versions")
}

const definitionColumns = `d.name, d.version, d.digest, d.created_at, d.source, d.id = coalesce(n.current_id,
	(SELECT l.id FROM definition l WHERE l.name = d.name ORDER BY l.version DESC LIMIT 1)) AS current,
	n.deprecated_at, coalesce(n.deprecated_reason, '') AS deprecated_reason`

const definitionTables = ` FROM definition d LEFT JOIN definition_name n USING (name) `

func (c *Coordinator) readDefinitions(ctx context.Context, sql string, args ...any) ([]DefinitionInfo, error) {
	done, err := c.reading(ctx)
	if err != nil {
		return nil, err
	}
	defer done()
	rows, err := c.Pool.Query(ctx, sql, args...)
	if err != nil {
		return nil, fmt.Errorf("read definitions: %w", err)
	}
	var all []DefinitionInfo
	var d DefinitionInfo
	v := &d.Current
	targets := []any{&v.Name, &v.Version, &v.Digest, &v.CreatedAt, &v.Source, &v.Current, &d.DeprecatedAt, &d.DeprecatedReason}
	if _, err := pgx.ForEachRow(rows, targets, func() error {
		v.CreatedAt = v.CreatedAt.UTC()
		if d.DeprecatedAt != nil {
			at := d.DeprecatedAt.UTC()
			d.DeprecatedAt = &at
		}
		all = append(all, d)
		v.Source = nil
		return nil
	}); err != nil {
		return nil, fmt.Errorf("read definitions: %w", err)
	}
	return all, nil
}

// ListDefinitions returns the definitions by name, in the order of the names,
// from the one after a name, and whether there are more.
func (c *Coordinator) ListDefinitions(ctx context.Context, after string, limit int) ([]DefinitionInfo, bool, error) {
	all, err := c.readDefinitions(ctx, `SELECT * FROM (SELECT `+definitionColumns+definitionTables+`WHERE d.name > $1) d WHERE current ORDER BY name LIMIT $2`, after, limit+1)
	if len(all) > limit {
		return all[:limit], true, err
	}
	return all, false, err
}

// GetDefinition returns [ErrNotFound] if there is no definition of that name.
func (c *Coordinator) GetDefinition(ctx context.Context, name string) (DefinitionInfo, error) {
	return one(c.readDefinitions(ctx, `SELECT * FROM (SELECT `+definitionColumns+definitionTables+`WHERE d.name = $1) d WHERE current`, name))
}

// GetDefinitionVersion returns [ErrNotFound] if there is no such version.
func (c *Coordinator) GetDefinitionVersion(ctx context.Context, name string, version int) (DefinitionVersion, error) {
	d, err := one(c.readDefinitions(ctx, `SELECT `+definitionColumns+definitionTables+`WHERE d.name = $1 AND d.version = $2`, name, version))
	return d.Current, err
}

func one(all []DefinitionInfo, err error) (DefinitionInfo, error) {
	if err == nil && len(all) == 0 {
		err = ErrNotFound
	}
	if err != nil {
		return DefinitionInfo{}, err
	}
	return all[0], nil
}

// DefinitionVersions returns versions of a definition, the latest first, from
// the one before a version (0: from the latest), each with the number of its
// sagas that have not ended, and whether there are more. It costs as much as
// there are open sagas, of whatever definition; those that have ended cost
// nothing.
func (c *Coordinator) DefinitionVersions(ctx context.Context, name string, before, limit int) ([]DefinitionVersion, bool, error) {
	all, err := c.readDefinitions(ctx, `SELECT `+definitionColumns+definitionTables+`
		WHERE d.name = $1 AND ($2 = 0 OR d.version < $2) ORDER BY d.version DESC LIMIT $3`, name, before, limit+1)
	if err != nil {
		return nil, false, err
	}
	if len(all) == 0 && before == 0 {
		return nil, false, ErrNotFound
	}
	more := len(all) > limit
	versions := make([]DefinitionVersion, min(len(all), limit))
	open, err := c.countOpen(ctx, name)
	for i := range versions {
		versions[i] = all[i].Current
		versions[i].Open = open[versions[i].Version]
	}
	return versions, more, err
}

func (c *Coordinator) countOpen(ctx context.Context, name string) (map[int]map[saga.Status]int, error) {
	const q = `
		SELECT d.version, s.status, count(*)::int FROM (` + openSagas + `) o JOIN saga s ON s.id = o.saga_id JOIN definition d ON d.id = s.definition_id
		WHERE d.name = $1 AND s.status IN ('running', 'compensating', 'stuck') GROUP BY 1, 2`
	done, err := c.reading(ctx)
	if err != nil {
		return nil, err
	}
	defer done()
	open := map[int]map[saga.Status]int{}
	var version, n int
	var status saga.Status
	b := &pgx.Batch{}
	b.Queue(begin)
	b.Queue(byIndex)
	b.Queue(q, name).Query(func(rows pgx.Rows) error {
		_, err := pgx.ForEachRow(rows, []any{&version, &status, &n}, func() error {
			if open[version] == nil {
				open[version] = map[saga.Status]int{}
			}
			open[version][status] = n
			return nil
		})
		return err
	})
	b.Queue(commit)
	if err := c.Pool.SendBatch(ctx, b).Close(); err != nil {
		return nil, fmt.Errorf("count the sagas of definition %s: %w", name, err)
	}
	return open, nil
}

// openSagas are the ids of all sagas that have not ended, and of some that have
// a moment ago.
const openSagas = `SELECT saga_id FROM saga_timer UNION SELECT saga_id FROM saga_waiting`

// auditDefinition writes down what an operator did to a definition.
func auditDefinition(ctx context.Context, tx pgx.Tx, op Operation, action, name string, changed bool, details any, now time.Time) error {
	entry, err := op.audit(action, TargetDefinition, name, details, now)
	if err != nil {
		return err
	}
	if !changed {
		entry.Outcome = Unchanged
	}
	b := &pgx.Batch{}
	entry.queue(b)
	return tx.SendBatch(ctx, b).Close()
}

// Deprecate refuses new sagas of a definition, in every version; those that run
// go on. Doing it twice is as doing it once. It returns [ErrNotFound] if there
// is no such definition.
func (c *Coordinator) Deprecate(ctx context.Context, name string, op Operation) (DefinitionInfo, error) {
	return c.mark(ctx, name, op, "deprecate", `SET deprecated_at = $2, deprecated_reason = nullif($3, '') WHERE name = $1 AND deprecated_at IS NULL`, c.now(), op.Reason)
}

// Undeprecate is the opposite of [Coordinator.Deprecate].
func (c *Coordinator) Undeprecate(ctx context.Context, name string, op Operation) (DefinitionInfo, error) {
	return c.mark(ctx, name, op, "undeprecate", `SET deprecated_at = NULL, deprecated_reason = NULL WHERE name = $1 AND deprecated_at IS NOT NULL`)
}

func (c *Coordinator) mark(ctx context.Context, name string, op Operation, action, set string, args ...any) (DefinitionInfo, error) {
	const nameIt = `
		INSERT INTO definition_name (name, current_id)
		SELECT name, id FROM definition WHERE name = $1 ORDER BY version DESC LIMIT 1 ON CONFLICT DO NOTHING`
	if _, err := c.GetDefinition(ctx, name); err != nil {
		return DefinitionInfo{}, err
	}
	err := pgx.BeginFunc(ctx, c.Pool, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, nameIt, name); err != nil {
			return err
		}
		done, err := tx.Exec(ctx, `UPDATE definition_name `+set, append([]any{name}, args...)...)
		if err != nil {
			return err
		}
		return auditDefinition(ctx, tx, op, action, name, done.RowsAffected() > 0, nil, c.now())
	})
	if err != nil {
		return DefinitionInfo{}, fmt.Errorf("%s definition %s: %w", action, name, err)
	}
	c.definitions.forgetNames()
	return c.GetDefinition(ctx, name)
}

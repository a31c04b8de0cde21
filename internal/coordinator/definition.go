package coordinator

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/skald-saga/skald/internal/saga"
)

// definitions are those in use: current ones by name, and every version that a
// stored saga was met with.
type definitions struct {
	mu      sync.RWMutex
	current map[string]*definition
	byID    map[int32]*definition
}

type definition struct {
	*saga.Definition
	id     int32
	broken error // why this program cannot read it; of the definition only name and version are known then
}

// Register stores the definitions, each under its next version unless the same
// content is stored already, and makes them the ones that new sagas use. It
// must be called before sagas are started.
func (c *Coordinator) Register(ctx context.Context, defs ...*saga.Definition) error {
	for _, def := range defs {
		d, err := register(ctx, c.Pool, def, c.now())
		if err != nil {
			return fmt.Errorf("register definition %s: %w", def.Name, err)
		}
		c.definitions.add(d, true)
		c.Metrics.expect(d.Name)
	}
	return nil
}

func register(ctx context.Context, pool *pgxpool.Pool, def *saga.Definition, now time.Time) (*definition, error) {
	const insert = `
		INSERT INTO definition (name, version, digest, source, created_at)
		SELECT $1, 1 + coalesce(max(version), 0), $2, $3, $4 FROM definition WHERE name = $1
		ON CONFLICT DO NOTHING`
	const find = `SELECT id, version FROM definition WHERE name = $1 AND digest = $2`
	// Two servers that register at once may pick the same version: one of them
	// inserts nothing, finds nothing if the contents differ, and tries again.
	for range 10 {
		stored := *def
		d := &definition{Definition: &stored}
		err := pool.QueryRow(ctx, find, def.Name, def.Digest).Scan(&d.id, &stored.Version)
		if err == nil {
			return d, nil
		}
		if !errors.Is(err, pgx.ErrNoRows) {
			return nil, err
		}
		if _, err := pool.Exec(ctx, insert, def.Name, def.Digest, def.Source, now); err != nil {
			return nil, err
		}
	}
	return nil, errors.New("other servers keep registering versions")
}

// Participants returns the names of all participants that stored definitions
// name: sagas of older versions may still need theirs.
func (c *Coordinator) Participants(ctx context.Context) ([]string, error) {
	rows, err := c.Pool.Query(ctx, `SELECT id FROM definition`)
	if err != nil {
		return nil, fmt.Errorf("list definitions: %w", err)
	}
	ids, err := pgx.CollectRows(rows, pgx.RowTo[int32])
	if err != nil {
		return nil, fmt.Errorf("list definitions: %w", err)
	}
	var names []string
	for _, id := range ids {
		d, err := c.definition(ctx, id)
		if err != nil {
			return nil, err
		}
		names = append(names, d.Participants()...)
	}
	slices.Sort(names)
	return slices.Compact(names), nil
}

func (ds *definitions) add(d *definition, current bool) {
	ds.mu.Lock()
	defer ds.mu.Unlock()
	if ds.byID == nil {
		ds.byID, ds.current = map[int32]*definition{}, map[string]*definition{}
	}
	ds.byID[d.id] = d
	if current {
		ds.current[d.Name] = d
	}
}

// named finds what a start asks for; version 0 is the current one.
func (c *Coordinator) named(ctx context.Context, name string, version int) (*definition, error) {
	c.definitions.mu.RLock()
	d := c.definitions.current[name]
	c.definitions.mu.RUnlock()
	if d == nil {
		return nil, ErrUnknownDefinition
	}
	if version == 0 || version == d.Version {
		return d, nil
	}
	d, err := c.load(ctx, `name = $1 AND version = $2`, name, version)
	if err == nil && d.broken != nil {
		err = d.broken
	}
	return d, err
}

// definition finds a stored saga's definition. One that this program cannot
// read, because a newer one wrote it, is returned as broken: its sagas must not
// hold up the others.
func (c *Coordinator) definition(ctx context.Context, id int32) (*definition, error) {
	c.definitions.mu.RLock()
	d := c.definitions.byID[id]
	c.definitions.mu.RUnlock()
	if d != nil {
		return d, nil
	}
	return c.load(ctx, `id = $1`, id)
}

func (c *Coordinator) load(ctx context.Context, where string, args ...any) (*definition, error) {
	var (
		d       definition
		name    string
		version int
		source  []byte
	)
	err := c.Pool.QueryRow(ctx, `SELECT id, name, version, source FROM definition WHERE `+where, args...).Scan(&d.id, &name, &version, &source)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, ErrUnknownDefinition
	}
	if err != nil {
		return nil, fmt.Errorf("read definition: %w", err)
	}
	if d.Definition, err = saga.Parse(source); err != nil {
		d.Definition = &saga.Definition{Name: name}
		d.broken = fmt.Errorf("parse stored definition %s, version %d: %w", name, version, err)
	}
	d.Version = version
	c.definitions.add(&d, false)
	return &d, nil
}

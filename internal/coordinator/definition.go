package coordinator

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/skald-saga/skald/internal/inputschema"
	"github.com/skald-saga/skald/internal/saga"
)

// definitions is what this server knows of the definitions that are stored:
// every version that it has met, which never changes, and what each name stands
// for, which does. Servers tell each other nothing; each reads again what is
// older than namesFor when a start asks for it. So a start costs no query, an
// idle server asks nothing, and a name that is not known is looked up at once.
type definitions struct {
	mu       sync.RWMutex
	byID     map[int32]*definition
	versions map[nameVersion]*definition
	names    map[string]name
	readAt   time.Time
	turn     sync.Mutex // held by the one who reads the names
}

type nameVersion struct {
	name    string
	version int
}

// namesFor is how long a server may go on using what a name stood for.
const namesFor = time.Second

// name is what a definition's name stands for.
type name struct {
	current    int32
	deprecated bool
}

type definition struct {
	*saga.Definition
	id     int32
	schema *inputschema.Schema // of the input
	broken error               // why this program cannot read it; of the definition only name and version are known then
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

// startable finds what a start asks for; version 0 is the current one. It
// returns [ErrUnknownDefinition] or [ErrDeprecated].
func (c *Coordinator) startable(ctx context.Context, of string, version int) (*definition, error) {
	d, n, err := c.named(ctx, of, version)
	switch {
	case err != nil:
		return nil, err
	case n.deprecated:
		return nil, ErrDeprecated
	}
	return d, nil
}

// named finds a version of a definition; 0 is the current one.
func (c *Coordinator) named(ctx context.Context, of string, version int) (*definition, name, error) {
	n, err := c.lookUp(ctx, of)
	if err != nil {
		return nil, name{}, err
	}
	d, err := c.definition(ctx, n.current)
	if err == nil && version != 0 && version != d.Version {
		d, err = c.versionOf(ctx, of, version)
	}
	if err == nil {
		err = d.broken
	}
	return d, n, err
}

// lookUp says what a name stands for, or [ErrUnknownDefinition].
func (c *Coordinator) lookUp(ctx context.Context, of string) (name, error) {
	asked := c.Now()
	ds := &c.definitions
	if n, known, fresh := ds.name(of, asked.Add(-namesFor)); known && fresh {
		return n, nil
	}
	ds.turn.Lock() // one reads for all who wait
	defer ds.turn.Unlock()
	n, known, fresh := ds.name(of, asked)
	if !fresh {
		if err := c.readNames(ctx); err != nil {
			return name{}, err
		}
		n, known, _ = ds.name(of, asked)
	}
	if !known {
		return name{}, ErrUnknownDefinition
	}
	return n, nil
}

// name also says whether the names were read after a time.
func (ds *definitions) name(of string, after time.Time) (n name, known, fresh bool) {
	ds.mu.RLock()
	defer ds.mu.RUnlock()
	n, known = ds.names[of]
	return n, known, ds.readAt.After(after)
}

func (c *Coordinator) readNames(ctx context.Context) error {
	const q = `
		SELECT DISTINCT ON (d.name) d.name, coalesce(n.current_id, d.id), n.deprecated_at IS NOT NULL
		FROM definition d LEFT JOIN definition_name n USING (name) ORDER BY d.name, d.version DESC`
	at := c.Now()
	rows, err := c.Pool.Query(ctx, q)
	if err != nil {
		return fmt.Errorf("read the names of definitions: %w", err)
	}
	names := map[string]name{}
	var of string
	var n name
	if _, err := pgx.ForEachRow(rows, []any{&of, &n.current, &n.deprecated}, func() error { names[of] = n; return nil }); err != nil {
		return fmt.Errorf("read the names of definitions: %w", err)
	}
	for of := range names {
		c.Metrics.expect(of)
	}
	c.definitions.mu.Lock()
	defer c.definitions.mu.Unlock()
	c.definitions.names, c.definitions.readAt = names, at
	return nil
}

// forgetNames makes the next start read them: this server has changed one. A
// read that is under way may have been too early, and is waited for.
func (ds *definitions) forgetNames() {
	ds.turn.Lock()
	defer ds.turn.Unlock()
	ds.mu.Lock()
	defer ds.mu.Unlock()
	ds.names = nil
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

func (c *Coordinator) versionOf(ctx context.Context, of string, version int) (*definition, error) {
	c.definitions.mu.RLock()
	d := c.definitions.versions[nameVersion{of, version}]
	c.definitions.mu.RUnlock()
	if d != nil {
		return d, nil
	}
	return c.load(ctx, `name = $1 AND version = $2`, of, version)
}

func (c *Coordinator) load(ctx context.Context, where string, args ...any) (*definition, error) {
	var (
		d      definition
		of     nameVersion
		source []byte
	)
	err := c.Pool.QueryRow(ctx, `SELECT id, name, version, source FROM definition WHERE `+where, args...).Scan(&d.id, &of.name, &of.version, &source)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, ErrUnknownDefinition
	}
	if err != nil {
		return nil, fmt.Errorf("read definition: %w", err)
	}
	if d.Definition, err = ParseDefinition(source); err != nil {
		d.Definition = &saga.Definition{Name: of.name}
		d.broken = fmt.Errorf("parse stored definition %s, version %d: %w", of.name, of.version, err)
	}
	d.schema, _ = inputschema.Compile(d.InputSchema) // it was just found to be right
	d.Version = of.version
	c.definitions.add(&d)
	return &d, nil
}

func (ds *definitions) add(d *definition) {
	ds.mu.Lock()
	defer ds.mu.Unlock()
	if ds.byID == nil {
		ds.byID, ds.versions = map[int32]*definition{}, map[nameVersion]*definition{}
	}
	ds.byID[d.id], ds.versions[nameVersion{d.Name, d.Version}] = d, d
}

// fits holds an input to the definition's own schema. The error is an
// [*InputError].
func (d *definition) fits(input json.RawMessage) error {
	found := d.schema.Check(input)
	if len(found) == 0 {
		return nil
	}
	wrong := &InputError{Problems: make([]InputProblem, min(len(found), maxInputProblems))}
	for i := range wrong.Problems {
		wrong.Problems[i] = InputProblem(found[i])
	}
	return wrong
}

// maxInputProblems is how many places one refusal points at.
const maxInputProblems = 20

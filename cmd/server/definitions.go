package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"strings"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/skald-saga/skald/definitions"
	"github.com/skald-saga/skald/internal/coordinator"
	"github.com/skald-saga/skald/internal/program"
	"github.com/skald-saga/skald/internal/saga"
)

type definitionsCmd struct {
	Validate validateDefinitionsCmd `cmd:"" help:"Check the definitions in a folder, without a database; exit status 2 and a line for each mistake."`
	Apply    applyDefinitionsCmd    `cmd:"" help:"Store the definitions in a folder, as PUT /v1/definitions does; running servers use them within a second."`
}

type validateDefinitionsCmd struct {
	Dir string `arg:"" help:"The folder: *.yaml, *.yml and *.json in it, not below it."`
}

// Run reads every file.
func (v validateDefinitionsCmd) Run(s program.Streams) error {
	defs, err := readDefinitions(v.Dir)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(s.Out, "%d definitions are right\n", len(defs))
	return err
}

type applyDefinitionsCmd struct {
	databaseFlags
	Dir string `arg:"" help:"The folder: *.yaml, *.yml and *.json in it, not below it."`
}

// Run stores all, or nothing if one of them is wrong.
func (a applyDefinitionsCmd) Run(ctx context.Context, s program.Streams) error {
	defs, err := readDefinitions(a.Dir)
	if err != nil {
		return err
	}
	return a.use(ctx, func(_ string, pool *pgxpool.Pool) error {
		if err := checkSchema(ctx, pool); err != nil {
			return err
		}
		c := coordinator.New(coordinator.Config{Pool: pool})
		for _, def := range defs {
			stored, created, err := c.Define(ctx, def, coordinator.Operation{Actor: "server definitions apply"})
			if err != nil {
				return err
			}
			news := "stored before"
			if created {
				news = "new"
			}
			if _, err := fmt.Fprintf(s.Out, "%s: version %d, %s\n", def.Name, stored.Version, news); err != nil {
				return err
			}
		}
		return nil
	})
}

// loadDefinitions reads the folder of --definitions, or what is built in if
// none is given.
func loadDefinitions(dir string) ([]*saga.Definition, error) {
	var files fs.FS = definitions.Files
	if dir != "" {
		files = os.DirFS(dir)
	}
	defs, err := definitionsIn(files, "")
	switch {
	case err != nil:
		return nil, program.Usagef("--definitions: %w", err)
	case len(defs) == 0:
		return nil, program.Usagef("--definitions: no *.yaml, *.yml or *.json in %s", dir)
	}
	return defs, nil
}

// readDefinitions reads a folder; its error has a line for each mistake.
func readDefinitions(dir string) ([]*saga.Definition, error) {
	defs, err := definitionsIn(os.DirFS(dir), dir)
	var lines mistakes
	switch {
	case errors.As(err, &lines):
		return nil, program.Lines(lines)
	case err != nil:
		return nil, program.UsageError{Err: err}
	case len(defs) == 0:
		return nil, program.Usagef("no *.yaml, *.yml or *.json in %s", dir)
	}
	return defs, nil
}

// mistakes are what is wrong with files: file, line and what.
type mistakes []string

func (m mistakes) Error() string { return strings.Join(m, "; ") }

// definitionsIn reads all definitions of a folder, which is called dir in what
// is said of its files.
func definitionsIn(files fs.FS, dir string) ([]*saga.Definition, error) {
	entries, err := fs.ReadDir(files, ".")
	if err != nil {
		return nil, fmt.Errorf("read folder: %w", errors.Unwrap(err)) // the path in err is "."
	}
	var (
		defs  []*saga.Definition
		wrong mistakes
		names = map[string]string{}
	)
	for _, e := range entries {
		if ext := path.Ext(e.Name()); e.IsDir() || (ext != ".yaml" && ext != ".yml" && ext != ".json") {
			continue
		}
		file := path.Join(dir, e.Name())
		text, err := fs.ReadFile(files, e.Name())
		if err != nil {
			wrong = append(wrong, file+": "+errors.Unwrap(err).Error())
			continue
		}
		def, err := coordinator.ParseDefinition(text)
		var found *saga.ParseError
		switch {
		case errors.As(err, &found):
			for _, p := range found.Problems {
				wrong = append(wrong, fmt.Sprintf("%s:%d: %s", file, max(p.Line, 1), p.Detail))
			}
		case err != nil:
			return nil, fmt.Errorf("%s: %w", file, err)
		case names[def.Name] != "":
			wrong = append(wrong, fmt.Sprintf("%s:1: %s defines %q too", file, names[def.Name], def.Name))
		default:
			names[def.Name] = file
			defs = append(defs, def)
		}
	}
	if len(wrong) > 0 {
		return nil, wrong
	}
	return defs, nil
}

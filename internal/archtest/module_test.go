// Package archtest holds the rules on which package may know which, and on
// what a source file may look like. It reads the sources itself: the test cache
// sees every file that a test opens, but not those that a `go list` reads.
package archtest

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// module is the sources of one Go module.
type module struct {
	path     string // as go.mod says
	packages map[string]*pkg
}

// pkg is one folder of Go files.
type pkg struct {
	dir   string // from the top of the module, with slashes
	files []*source
}

// source is one Go file.
type source struct {
	name      string // from the top of the module
	test      bool
	generated bool
	lines     int
	imports   []string
	syntax    *ast.File
}

// readModule reads every Go file below root that belongs to its module.
func readModule(t *testing.T, root string) *module {
	t.Helper()
	m := &module{packages: map[string]*pkg{}}
	mod, err := os.ReadFile(filepath.Join(root, "go.mod"))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(mod)) {
		if after, ok := strings.CutPrefix(line, "module "); ok {
			m.path = strings.TrimSpace(after)
		}
	}
	err = filepath.WalkDir(root, func(name string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && name != root && foreign(name, d.Name()):
			return filepath.SkipDir
		case d.IsDir() || filepath.Ext(name) != ".go":
			return nil
		}
		rel, err := filepath.Rel(root, name)
		if err != nil {
			return err
		}
		return m.add(name, filepath.ToSlash(rel))
	})
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// foreign reports whether the go command would not look into a folder either.
func foreign(name, base string) bool {
	if base == "testdata" || base == "node_modules" || strings.HasPrefix(base, ".") || strings.HasPrefix(base, "_") {
		return true
	}
	_, err := os.Stat(filepath.Join(name, "go.mod")) // a module of its own
	return err == nil
}

func (m *module) add(name, rel string) error {
	text, err := os.ReadFile(name)
	if err != nil {
		return err
	}
	syntax, err := parser.ParseFile(token.NewFileSet(), rel, text, parser.ParseComments|parser.SkipObjectResolution)
	if err != nil {
		return err
	}
	f := &source{
		name: rel, test: strings.HasSuffix(rel, "_test.go"), generated: ast.IsGenerated(syntax),
		lines: strings.Count(string(text), "\n"), syntax: syntax,
	}
	for _, spec := range syntax.Imports {
		imported, err := strconv.Unquote(spec.Path.Value)
		if err != nil {
			return err
		}
		f.imports = append(f.imports, imported)
	}
	dir := path.Dir(rel)
	if m.packages[dir] == nil {
		m.packages[dir] = &pkg{dir: dir}
	}
	m.packages[dir].files = append(m.packages[dir].files, f)
	return nil
}

// sorted returns the packages in the order of their folders.
func (m *module) sorted() []*pkg {
	var pkgs []*pkg
	for _, dir := range slices.Sorted(maps.Keys(m.packages)) {
		pkgs = append(pkgs, m.packages[dir])
	}
	return pkgs
}

// name of the package, without the _test of an external test package.
func (p *pkg) name() string {
	return strings.TrimSuffix(p.files[0].syntax.Name.Name, "_test")
}

// imports of the files that go into programs, sorted. Files for other
// operating systems count too.
func (p *pkg) imports() []string {
	var all []string
	for _, f := range p.files {
		if !f.test {
			all = append(all, f.imports...)
		}
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// ours returns the folder of a package of this module.
func (m *module) ours(imported string) (dir string, ok bool) {
	if imported == m.path {
		return ".", true
	}
	return strings.CutPrefix(imported, m.path+"/")
}

// reach returns all that the package in dir imports, directly or through
// packages of this module, each with the way that leads there.
func (m *module) reach(dir string) map[string][]string {
	ways := map[string][]string{}
	var walk func(dir string, way []string)
	walk = func(dir string, way []string) {
		p := m.packages[dir]
		if p == nil {
			return
		}
		for _, imported := range p.imports() {
			if _, seen := ways[imported]; seen {
				continue
			}
			to := append(slices.Clone(way), imported)
			ways[imported] = to
			if next, ok := m.ours(imported); ok {
				walk(next, to)
			}
		}
	}
	walk(dir, []string{dir})
	return ways
}

// standard reports whether a package is of the standard library: the first
// part of all others is a host name.
func standard(imported string) bool {
	first, _, _ := strings.Cut(imported, "/")
	return !strings.Contains(first, ".")
}

// below reports whether imported is the module, or a package in it.
func below(imported, mod string) bool {
	return imported == mod || strings.HasPrefix(imported, mod+"/")
}

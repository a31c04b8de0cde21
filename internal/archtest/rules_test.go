package archtest

import (
	"fmt"
	"go/ast"
	"maps"
	"path"
	"slices"
	"strings"
)

// mostLines is where a file is split, by idea.
const mostLines = 450

// checkImports compares every package with its row of the table.
func checkImports(m *module, table map[string]may) (wrong []string) {
	for _, p := range m.sorted() {
		row, ok := table[p.dir]
		if !ok {
			wrong = append(wrong, p.dir+" has no row in the import table")
			continue
		}
		for _, imported := range p.imports() {
			if !row.allows(m, imported) {
				wrong = append(wrong, p.dir+" must not import "+imported)
			}
		}
	}
	for _, dir := range slices.Sorted(maps.Keys(table)) {
		if m.packages[dir] == nil {
			wrong = append(wrong, dir+" has a row in the import table but does not exist")
		}
	}
	return wrong
}

func (row may) allows(m *module, imported string) bool {
	if dir, ok := m.ours(imported); ok {
		return slices.Contains(row.ours, dir)
	}
	if !standard(imported) {
		return slices.ContainsFunc(row.others, func(mod string) bool { return below(imported, mod) })
	}
	switch {
	case row.std == nil:
		return !below(imported, "testing")
	case slices.Equal(row.std, anyStd):
		return true
	}
	return slices.Contains(row.std, imported)
}

// checkUse looks for permissions that nobody uses: the table says how things
// are, and an edge that comes back is as visible as a new one.
func checkUse(m *module, table map[string]may) (wrong []string) {
	for _, p := range m.sorted() {
		row, imports := table[p.dir], p.imports()
		unused := func(allowed string, used func(imported string) bool) {
			if allowed != "*" && !slices.ContainsFunc(imports, used) {
				wrong = append(wrong, p.dir+" is allowed "+allowed+" and does not import it")
			}
		}
		for _, std := range row.std {
			unused(std, func(imported string) bool { return imported == std })
		}
		for _, dir := range row.ours {
			unused(dir, func(imported string) bool { of, ok := m.ours(imported); return ok && of == dir })
		}
		for _, mod := range row.others {
			unused(mod, func(imported string) bool { return below(imported, mod) })
		}
	}
	return wrong
}

// checkHidden looks for modules outside the one package that may use them.
func checkHidden(m *module, onlyIn map[string]string) (wrong []string) {
	for _, p := range m.sorted() {
		for _, imported := range p.imports() {
			for mod, dir := range onlyIn {
				if below(imported, mod) && p.dir != dir {
					wrong = append(wrong, fmt.Sprintf("%s imports %s, which only %s may", p.dir, imported, dir))
				}
			}
		}
	}
	return wrong
}

// checkReach looks for what a package must not have in its program.
func checkReach(m *module, never map[string][]string) (wrong []string) {
	for _, from := range slices.Sorted(maps.Keys(never)) {
		ways := m.reach(from)
		for _, imported := range slices.Sorted(maps.Keys(ways)) {
			for _, forbidden := range never[from] {
				dir, ours := m.ours(imported)
				if (ours && dir == forbidden) || (!ours && below(imported, forbidden)) {
					wrong = append(wrong, strings.Join(ways[imported], " → "))
				}
			}
		}
	}
	return wrong
}

// checkExits looks for programs that end anywhere but in main: whoever started
// something must be given the chance to stop it.
func checkExits(m *module, except ...string) (wrong []string) {
	for _, p := range m.sorted() {
		if p.name() == "main" || slices.Contains(except, p.dir) {
			continue
		}
		for _, f := range p.files {
			if f.test { // a TestMain is a main function
				continue
			}
			for _, call := range [][2]string{{"os", "Exit"}, {"log", "Fatal"}, {"log", "Fatalf"}, {"log", "Fatalln"}} {
				if f.uses(call[0], call[1]) {
					wrong = append(wrong, fmt.Sprintf("%s uses %s.%s, and is not package main", f.name, call[0], call[1]))
				}
			}
		}
	}
	return wrong
}

// checkStatusCodes looks for HTTP's error status codes outside problem*.go: what
// an error means to a client is decided once.
func checkStatusCodes(m *module, dir, only string) (wrong []string) {
	if m.packages[dir] == nil {
		return nil
	}
	for _, f := range m.packages[dir].files {
		if f.test || f.generated || strings.HasPrefix(path.Base(f.name), only) {
			continue
		}
		ast.Inspect(f.syntax, func(n ast.Node) bool {
			if sel, ok := n.(*ast.SelectorExpr); ok && f.refersTo(sel, "net/http") && isErrorStatus(sel.Sel.Name) {
				wrong = append(wrong, fmt.Sprintf("%s uses %s, which only %s*.go may", f.name, sel.Sel.Name, only))
			}
			return true
		})
	}
	return wrong
}

// isErrorStatus: the names of 4xx and 5xx are all but these.
func isErrorStatus(name string) bool {
	return strings.HasPrefix(name, "Status") && !slices.Contains([]string{
		"StatusText", "StatusContinue", "StatusSwitchingProtocols", "StatusOK", "StatusCreated", "StatusAccepted", "StatusNoContent",
		"StatusMovedPermanently", "StatusFound", "StatusSeeOther", "StatusNotModified", "StatusTemporaryRedirect", "StatusPermanentRedirect",
	}, name)
}

// checkComments looks for packages that do not say what they are for.
func checkComments(m *module) (wrong []string) {
	for _, p := range m.sorted() {
		if !slices.ContainsFunc(p.files, func(f *source) bool { return f.syntax.Doc.Text() != "" }) {
			wrong = append(wrong, p.dir+" has no package comment")
		}
	}
	return wrong
}

// checkNames looks for names that say nothing, and so attract everything.
func checkNames(m *module) (wrong []string) {
	for _, p := range m.sorted() {
		for _, name := range []string{path.Base(p.dir), p.name()} {
			for _, banned := range []string{"util", "common", "helper", "model", "misc", "shared"} {
				if strings.TrimSuffix(name, "s") == banned {
					wrong = append(wrong, fmt.Sprintf("%s: a package is not named %s", p.dir, name))
				}
			}
		}
	}
	return slices.Compact(wrong)
}

// checkSizes looks for files that hold more than one idea.
func checkSizes(m *module) (wrong []string) {
	for _, p := range m.sorted() {
		for _, f := range p.files {
			if f.lines > mostLines && !f.generated {
				wrong = append(wrong, fmt.Sprintf("%s has %d lines, more than %d: split it by idea", f.name, f.lines, mostLines))
			}
		}
	}
	return wrong
}

// uses reports whether a file mentions name of an imported package.
func (f *source) uses(imported, name string) bool {
	found := false
	ast.Inspect(f.syntax, func(n ast.Node) bool {
		if sel, ok := n.(*ast.SelectorExpr); ok && sel.Sel.Name == name && f.refersTo(sel, imported) {
			found = true
		}
		return !found
	})
	return found
}

// refersTo reports whether sel begins with the name that the file gives to an
// imported package.
func (f *source) refersTo(sel *ast.SelectorExpr, imported string) bool {
	x, ok := sel.X.(*ast.Ident)
	if !ok {
		return false
	}
	for i, spec := range f.syntax.Imports {
		if f.imports[i] != imported {
			continue
		}
		if spec.Name != nil {
			return x.Name == spec.Name.Name
		}
		return x.Name == path.Base(imported)
	}
	return false
}

package saga

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// Problem is one thing that is wrong with a definition, and where.
type Problem struct {
	Line   int      // of the text, from 1; 0: nobody knows
	Path   []string // names and indexes that lead to it from the top; empty: all of it
	Detail string
}

// String names the place for people.
func (p Problem) String() string {
	if p.Line == 0 {
		return p.Detail
	}
	return fmt.Sprintf("line %d: %s", p.Line, p.Detail)
}

// ParseError is all that is wrong with a definition, in the order of its parts.
type ParseError struct{ Problems []Problem }

func (e *ParseError) Error() string {
	lines := make([]string, len(e.Problems))
	for i, p := range e.Problems {
		lines[i] = p.String()
	}
	return strings.Join(lines, "\n")
}

// refusal is a ParseError of a text as a whole.
func refusal(line int, detail string) *ParseError {
	return &ParseError{[]Problem{{Line: line, Detail: detail}}}
}

// form is a text that was read as YAML: where each of its parts stands, and
// what does not have the form of a document.
type form struct {
	lines    map[string]int // by path
	problems []Problem
	looked   int // at parts, those behind aliases once for each
	merged   int
}

// With aliases a few lines can be many parts, and without end.
const (
	maxLooks  = 100_000
	maxMerges = 100
)

// readYAML reads the one document of a text.
func readYAML(text []byte) (*yaml.Node, *ParseError) {
	dec := yaml.NewDecoder(bytes.NewReader(text))
	var doc yaml.Node
	switch err := dec.Decode(&doc); {
	case errors.Is(err, io.EOF):
		return nil, refusal(0, "the definition is empty")
	case err != nil:
		return nil, notYAML(err)
	}
	if err := dec.Decode(new(yaml.Node)); !errors.Is(err, io.EOF) {
		return nil, refusal(0, "one definition per file: there is a second document")
	}
	if root := doc.Content[0]; root.Kind != yaml.ScalarNode || root.ShortTag() != "!!null" {
		return root, nil
	}
	return nil, refusal(0, "the definition is empty")
}

func notYAML(err error) *ParseError {
	text, line := strings.TrimPrefix(err.Error(), "yaml: "), 0
	if n, _ := fmt.Sscanf(text, "line %d:", &line); n == 1 {
		_, text, _ = strings.Cut(text, ": ")
	}
	return refusal(line, "not YAML: "+text)
}

func key(path []string) string { return strings.Join(path, "\x00") }

// line finds where a part stands; of one that was left out, what it is missing
// from.
func (f *form) line(path []string) int {
	for n := len(path); n > 0; n-- {
		if line, known := f.lines[key(path[:n])]; known {
			return line
		}
	}
	return f.lines[""]
}

func (f *form) badf(n *yaml.Node, path []string, format string, args ...any) {
	f.problems = append(f.problems, Problem{n.Line, slices.Clone(path), fmt.Sprintf(format, args...)})
}

// check holds a part of the text to the Go type that it will be decoded into.
func (f *form) check(n *yaml.Node, t reflect.Type, path []string) {
	if f.looked++; f.looked > maxLooks {
		if f.looked == maxLooks+1 {
			f.badf(n, path, "there is too much of it: with its aliases, more than %d parts", maxLooks)
		}
		return
	}
	f.lines[key(path)] = n.Line
	if n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	if n.Kind == yaml.ScalarNode && n.ShortTag() == "!!null" {
		return // as if it were left out
	}
	if t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	switch {
	case reflect.PointerTo(t).Implements(reflect.TypeFor[yaml.Unmarshaler]()):
		if err := n.Decode(reflect.New(t).Interface()); err != nil {
			f.badf(n, path, "%s", strings.TrimPrefix(err.Error(), "yaml: "))
			return
		}
		f.mark(n, path)
	case t.Kind() == reflect.Struct && n.Kind == yaml.MappingNode:
		f.fields(n, t, path, map[string]int{})
	case t.Kind() == reflect.Slice && n.Kind == yaml.SequenceNode:
		for i, item := range n.Content {
			f.check(item, t.Elem(), append(path, strconv.Itoa(i)))
		}
	case t.Kind() == reflect.Map && n.Kind == yaml.MappingNode:
		for i := 0; i+1 < len(n.Content); i += 2 {
			f.check(n.Content[i+1], t.Elem(), append(path, n.Content[i].Value))
		}
	case n.Kind != yaml.ScalarNode, n.Decode(reflect.New(t).Interface()) != nil:
		f.badf(n, path, "want %s", wanted(t))
	}
}

// mark notes where the parts of something freeform stand.
func (f *form) mark(n *yaml.Node, path []string) {
	if n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	if f.looked++; f.looked > maxLooks {
		return
	}
	f.lines[key(path)] = n.Line
	switch n.Kind { //nolint:exhaustive // the others have no parts
	case yaml.SequenceNode:
		for i, item := range n.Content {
			f.mark(item, append(path, strconv.Itoa(i)))
		}
	case yaml.MappingNode:
		for i := 0; i+1 < len(n.Content); i += 2 {
			f.mark(n.Content[i+1], append(path, n.Content[i].Value))
		}
	}
}

// fields checks a mapping; seen says in which line each of its keys came first.
func (f *form) fields(n *yaml.Node, t reflect.Type, path []string, seen map[string]int) {
	for i := 0; i+1 < len(n.Content); i += 2 {
		name, value := n.Content[i], n.Content[i+1]
		if name.ShortTag() == "!!merge" {
			f.merge(value, t, path)
			continue
		}
		if line, twice := seen[name.Value]; twice {
			f.badf(name, append(path, name.Value), "mapping key %q already defined at line %d", name.Value, line)
			continue
		}
		seen[name.Value] = name.Line
		field, known := fieldOf(t, name.Value)
		if !known {
			f.badf(name, append(path, name.Value), "unknown field %q", name.Value)
			continue
		}
		f.check(value, field.Type, append(path, name.Value))
	}
}

// merge checks what <<: lays under a mapping. Its keys may be given again.
func (f *form) merge(n *yaml.Node, t reflect.Type, path []string) {
	if n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	f.merged++
	switch {
	case f.merged == maxMerges:
		f.badf(n, path, "there are too many merges: with aliases, more than %d", maxMerges)
	case f.merged > maxMerges: // that was said
	case n.Kind == yaml.MappingNode:
		f.fields(n, t, path, map[string]int{})
	case n.Kind == yaml.SequenceNode:
		for _, each := range n.Content {
			f.merge(each, t, path)
		}
	default:
		f.badf(n, path, "want %s to merge", wanted(t))
	}
}

func fieldOf(t reflect.Type, name string) (reflect.StructField, bool) {
	for field := range t.Fields() {
		if tag, _, _ := strings.Cut(field.Tag.Get("yaml"), ","); tag == name {
			return field, true
		}
	}
	return reflect.StructField{}, false
}

// wanted names a Go type of the document.
func wanted(t reflect.Type) string {
	switch t.Kind() { //nolint:exhaustive // what a document is made of
	case reflect.String:
		return "a text"
	case reflect.Int:
		return "a whole number"
	case reflect.Bool:
		return "true or false"
	case reflect.Slice:
		return "a list"
	}
	return "named fields"
}

package drain

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
	"go.yaml.in/yaml/v3"
)

// Mapping says what the columns of a table mean. Conditions and values are SQL:
// whoever writes the file has the rights of the role that the relay has.
type Mapping struct {
	Table   string            `yaml:"table"`   // schema.name, or name along the search_path
	ID      string            `yaml:"id"`      // a column with a unique index: what the message id is made of
	Order   string            `yaml:"order"`   // the column that rows are published by, then by ID; default: ID
	Key     string            `yaml:"key"`     // the column of whose values each keeps its order; default: none does
	Subject string            `yaml:"subject"` // text with {column}
	Payload string            `yaml:"payload"` // bytea, text, json or jsonb
	Headers string            `yaml:"headers"` // a column with a JSON object of strings; default: none
	Header  map[string]string `yaml:"header"`  // more headers: text with {column}
	Time    string            `yaml:"time"`    // when the row was written: ce-time, and the age of what waits; default: when it is read
	Pending string            `yaml:"pending"` // a condition; default: every row waits
	Settle  Settle            `yaml:"settle"`
	Dead    Dead              `yaml:"dead"`
	Lease   string            `yaml:"lease"` // the name under which relays agree who works; default: Table
}

// Settle says what becomes of a row that was published: one of the two.
type Settle struct {
	Delete bool              `yaml:"delete"`
	Set    map[string]string `yaml:"set"` // column: SQL expression
}

// Dead says how a row is marked that can never be published. Default: it is
// not, and skipped.
type Dead struct {
	Set map[string]string `yaml:"set"` // column: SQL expression, in which {error} is the reason
}

// Mistakes are what is wrong with a mapping, or with the table that it names.
type Mistakes []string

func (m Mistakes) Error() string { return strings.Join(m, "; ") }

// ErrMistaken is what all [Mistakes] are.
var ErrMistaken = errors.New("the mapping does not fit the table")

// Is reports whether target is [ErrMistaken].
func (m Mistakes) Is(target error) bool { return target == ErrMistaken }

// Parse reads a mapping. An error lists all that is wrong with it.
func Parse(text []byte) (*Mapping, error) {
	var m Mapping
	dec := yaml.NewDecoder(bytes.NewReader(text))
	dec.KnownFields(true)
	if err := dec.Decode(&m); err != nil {
		if errors.Is(err, io.EOF) {
			return nil, Mistakes{"it is empty"}
		}
		var wrong *yaml.TypeError
		if errors.As(err, &wrong) {
			return nil, Mistakes(wrong.Errors)
		}
		return nil, Mistakes{strings.TrimPrefix(err.Error(), "yaml: ")}
	}
	if bad := m.mistakes(); len(bad) > 0 {
		return nil, bad
	}
	m.Order, m.Lease = cmp.Or(m.Order, m.ID), cmp.Or(m.Lease, m.Table)
	return &m, nil
}

func (m *Mapping) mistakes() (bad Mistakes) {
	say := func(wrong bool, format string, args ...any) {
		if wrong {
			bad = append(bad, fmt.Sprintf(format, args...))
		}
	}
	for _, f := range []struct{ name, value string }{{"table", m.Table}, {"id", m.ID}, {"subject", m.Subject}, {"payload", m.Payload}} {
		say(f.value == "", "%s: must be given", f.name)
	}
	say(strings.Count(m.Table, ".") > 1, "table: want name or schema.name")
	say(m.Settle.Delete == (len(m.Settle.Set) > 0), "settle: want one of delete: true and set")
	say(m.Pending == "" && len(m.Settle.Set) > 0, "pending: must be given, or rows that are marked as published would be published again")
	say(m.Pending == "" && len(m.Dead.Set) > 0, "pending: must be given, or rows that are marked as dead would be tried again")
	for name, text := range m.templates() {
		if _, err := parseTemplate(text); err != nil {
			bad = append(bad, name+": "+err.Error())
		}
	}
	slices.Sort(bad)
	return bad
}

// templates are the texts with columns in them, by the place in the file.
func (m *Mapping) templates() map[string]string {
	all := map[string]string{"subject": m.Subject}
	for name, text := range m.Header {
		all["header."+name] = text
	}
	return all
}

// part is a piece of a template: a column, or text that stands for itself.
type part struct{ column, text string }

func parseTemplate(s string) ([]part, error) {
	var parts []part
	for s != "" {
		text, rest, found := strings.Cut(s, "{")
		if strings.Contains(text, "}") {
			return nil, errors.New("a } without a {")
		}
		if text != "" {
			parts = append(parts, part{text: text})
		}
		if !found {
			break
		}
		column, after, closed := strings.Cut(rest, "}")
		if !closed || column == "" || strings.Contains(column, "{") {
			return nil, errors.New("want {column}")
		}
		parts = append(parts, part{column: column})
		s = after
	}
	return parts, nil
}

// sqlOf is the SQL expression of a template, null if one of its columns is.
func sqlOf(template string) string {
	parts, _ := parseTemplate(template) // was parsed before
	var pieces []string
	for _, p := range parts {
		if p.column != "" {
			pieces = append(pieces, quote(p.column)+"::text")
		} else {
			pieces = append(pieces, literal(p.text))
		}
	}
	return cmp.Or(strings.Join(pieces, " || "), "''")
}

func quote(name string) string { return pgx.Identifier{name}.Sanitize() }

func literal(s string) string { return "'" + strings.ReplaceAll(s, "'", "''") + "'" }

// columns are the columns that the mapping names, by the place in the file.
func (m *Mapping) columns() map[string]string {
	all := map[string]string{"id": m.ID, "order": m.Order, "key": m.Key, "payload": m.Payload, "headers": m.Headers, "time": m.Time}
	maps.DeleteFunc(all, func(_, column string) bool { return column == "" })
	for place, text := range m.templates() {
		parts, _ := parseTemplate(text)
		for i, p := range parts {
			if p.column != "" {
				all[fmt.Sprintf("%s (%d)", place, i)] = p.column
			}
		}
	}
	return all
}

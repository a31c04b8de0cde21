package saga

import (
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"
)

// Attribute is something that a saga is found by.
type Attribute struct{ Name, Value string }

// Limits of what sagas are found by.
const (
	maxSearch         = 8   // paths of a definition
	MaxAttributeValue = 200 // characters; what is longer is not found by
)

// Attributes are what the definition's `search` paths lead to in an input, by
// the path behind `input.`: texts, numbers as they are written, true and false.
// What is not there, or something else, or too long, is left out.
func (d *Definition) Attributes(input json.RawMessage) []Attribute {
	if len(d.Search) == 0 {
		return nil
	}
	root, err := decodeNumbers(input)
	if err != nil {
		return nil // cannot be: it was valid JSON when the saga was started
	}
	var found []Attribute
	for _, path := range d.Search {
		name := strings.TrimPrefix(path, "input.")
		if value, ok := attributeAt(root, strings.Split(name, ".")); ok {
			found = append(found, Attribute{name, value})
		}
	}
	return found
}

func decodeNumbers(input json.RawMessage) (root any, err error) {
	dec := json.NewDecoder(strings.NewReader(string(input)))
	dec.UseNumber()
	err = dec.Decode(&root)
	return root, err
}

func attributeAt(v any, path []string) (string, bool) {
	for _, name := range path {
		members, ok := v.(map[string]any)
		if !ok {
			return "", false
		}
		v = members[name]
	}
	var text string
	switch v := v.(type) {
	case string:
		text = v
	case json.Number:
		text = v.String()
	case bool:
		text = strconv.FormatBool(v)
	default:
		return "", false
	}
	return text, utf8.RuneCountInString(text) <= MaxAttributeValue
}

// searchable checks a definition's search paths.
func searchable(paths []string, bad func(field, format string, args ...any)) {
	if len(paths) > maxSearch {
		bad("search", "has at most %d paths", maxSearch)
	}
	seen := map[string]bool{}
	for _, path := range paths {
		name, inInput := strings.CutPrefix(path, "input.")
		switch {
		case !inInput || !validPath(name):
			bad("search", "%q is not a path into the input, such as input.customer_id", path)
		case seen[path]:
			bad("search", "%q is named twice", path)
		}
		seen[path] = true
	}
}

func validPath(name string) bool {
	for part := range strings.SplitSeq(name, ".") {
		if part == "" || strings.Trim(part, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-") != "" {
			return false
		}
	}
	return len(name) <= 100
}

// freeform is JSON of any form, written in the form of the text around it.
type freeform json.RawMessage

// maxFreeform bounds the parts of one: with aliases a few lines can be many.
const maxFreeform = 10_000

// UnmarshalYAML makes JSON of it.
func (f *freeform) UnmarshalYAML(node *yaml.Node) error {
	parts := 0
	v, err := plainValue(node, &parts)
	if err != nil {
		return err
	}
	*f, err = json.Marshal(v)
	return err
}

// MarshalJSON writes it as it is.
func (f freeform) MarshalJSON() ([]byte, error) { return f, nil }

// plainValue is a part of a text as JSON has it. A date is a text.
func plainValue(n *yaml.Node, parts *int) (any, error) {
	if *parts++; *parts > maxFreeform {
		return nil, fmt.Errorf("has more than %d parts", maxFreeform)
	}
	switch n.Kind {
	case yaml.AliasNode:
		return plainValue(n.Alias, parts)
	case yaml.SequenceNode:
		items := make([]any, len(n.Content))
		for i, item := range n.Content {
			var err error
			if items[i], err = plainValue(item, parts); err != nil {
				return nil, err
			}
		}
		return items, nil
	case yaml.MappingNode:
		members := map[string]any{}
		for i := 0; i+1 < len(n.Content); i += 2 {
			name := n.Content[i]
			if name.Kind != yaml.ScalarNode || name.ShortTag() == "!!merge" {
				return nil, errors.New("its names must be texts")
			}
			if _, twice := members[name.Value]; twice {
				return nil, fmt.Errorf("%q is given twice", name.Value)
			}
			var err error
			if members[name.Value], err = plainValue(n.Content[i+1], parts); err != nil {
				return nil, err
			}
		}
		return members, nil
	}
	return plainScalar(n)
}

func plainScalar(n *yaml.Node) (v any, err error) {
	switch n.ShortTag() {
	case "!!null":
		return nil, nil //nolint:nilnil // null is a value
	case "!!bool", "!!int", "!!float":
		err = n.Decode(&v)
		if err == nil {
			_, err = json.Marshal(v) // not so: .inf, .nan
		}
		return v, err
	}
	return n.Value, nil
}

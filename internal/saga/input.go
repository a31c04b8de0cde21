package saga

import (
	"encoding/json"
	"errors"
	"fmt"

	"go.yaml.in/yaml/v3"
)

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

// Package inputschema holds the input of a saga to the JSON Schema that its
// definition gives (`input_schema`, draft 2020-12). What does not fit is said
// place by place and without the values that were sent.
//
// It stands beside the pure core, which only carries the schema's text: so the
// core needs no validation library, and a stored history can be folded without
// one. References lead nowhere outside the schema itself.
package inputschema

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"strconv"
	"strings"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"github.com/santhosh-tekuri/jsonschema/v6/kind"
)

// Schema is safe for concurrent use; nil lets everything pass.
type Schema struct{ compiled *jsonschema.Schema }

// Problem is what is wrong at one place.
type Problem struct {
	Path   []string
	Detail string
}

// nowhere follows no reference.
type nowhere struct{}

var errNowhere = errors.New("references lead only to places in the schema itself")

func (nowhere) Load(string) (any, error) { return nil, errNowhere }

// place is the schema's own address. Nothing is there.
const place = "skald:input"

// Compile reads a schema, once for all its uses; an empty text gives nil.
func Compile(text json.RawMessage) (*Schema, []Problem) {
	if len(text) == 0 {
		return nil, nil
	}
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(text))
	if err != nil {
		return nil, []Problem{{Detail: "is not JSON"}}
	}
	c := jsonschema.NewCompiler()
	c.UseLoader(nowhere{})
	c.DefaultDraft(jsonschema.Draft2020)
	c.AssertFormat()
	if err := c.AddResource(place, doc); err != nil {
		return nil, []Problem{{Detail: plain(err)}}
	}
	compiled, err := c.Compile(place)
	var invalid *jsonschema.ValidationError
	var wrapped *jsonschema.SchemaValidationError
	if errors.As(err, &wrapped) && errors.As(wrapped.Err, &invalid) {
		return nil, problems(invalid)
	}
	if err != nil {
		return nil, []Problem{{Detail: plain(err)}}
	}
	return &Schema{compiled}, nil
}

// plain leaves out the address that the schema has only in here.
func plain(err error) string {
	if errors.As(err, new(*jsonschema.LoadURLError)) {
		return errNowhere.Error()
	}
	return strings.ReplaceAll(err.Error(), place, "")
}

// Check says what in an input, which is valid JSON, does not fit.
func (s *Schema) Check(input json.RawMessage) []Problem {
	if s == nil {
		return nil
	}
	v, err := jsonschema.UnmarshalJSON(bytes.NewReader(input))
	if err != nil {
		return []Problem{{Detail: "is not JSON"}}
	}
	var invalid *jsonschema.ValidationError
	if err := s.compiled.Validate(v); errors.As(err, &invalid) {
		return problems(invalid)
	}
	return nil
}

// problems takes an error apart, down to the places that it is made of. Of
// alternatives that all fail, it is not said why each did.
func problems(e *jsonschema.ValidationError) (all []Problem) {
	switch k := e.ErrorKind.(type) {
	case *kind.AnyOf, *kind.OneOf:
		return []Problem{{e.InstanceLocation, "must be as one of the alternatives says, and only one if it is oneOf"}}
	case *kind.Required:
		for _, name := range k.Missing {
			all = append(all, Problem{below(e, name), "is required"})
		}
		return all
	case *kind.AdditionalProperties:
		for _, name := range k.Properties {
			all = append(all, Problem{below(e, name), "is not known here"})
		}
		return all
	}
	for _, cause := range e.Causes {
		all = append(all, problems(cause)...)
	}
	if len(all) == 0 {
		all = []Problem{{e.InstanceLocation, detail(e.ErrorKind)}}
	}
	slices.SortStableFunc(all, func(a, b Problem) int { return slices.Compare(a.Path, b.Path) })
	return all
}

func below(e *jsonschema.ValidationError, name string) []string {
	return append(slices.Clone(e.InstanceLocation), name)
}

// detail says what is expected, and never what was found.
func detail(k jsonschema.ErrorKind) string {
	switch k := k.(type) {
	case *kind.Type:
		return "must be of type " + strings.Join(k.Want, " or ")
	case *kind.Enum:
		return "must be one of " + listed(k.Want)
	case *kind.Const:
		return "must be " + listed([]any{k.Want})
	case *kind.Pattern:
		return "must match " + k.Want
	case *kind.Format:
		return "must have the format " + k.Want
	case *kind.MinLength:
		return fmt.Sprintf("must have at least %d characters", k.Want)
	case *kind.MaxLength:
		return fmt.Sprintf("must have at most %d characters", k.Want)
	case *kind.MinItems:
		return fmt.Sprintf("must have at least %d items", k.Want)
	case *kind.MaxItems:
		return fmt.Sprintf("must have at most %d items", k.Want)
	case *kind.Minimum:
		return "must be at least " + number(k.Want)
	case *kind.Maximum:
		return "must be at most " + number(k.Want)
	case *kind.ExclusiveMinimum:
		return "must be more than " + number(k.Want)
	case *kind.ExclusiveMaximum:
		return "must be less than " + number(k.Want)
	case *kind.FalseSchema:
		return "must not be here"
	case *kind.UniqueItems:
		return "must not have an item twice"
	}
	if path := k.KeywordPath(); len(path) > 0 {
		return "does not fit " + path[0]
	}
	return "does not fit the schema"
}

func number(r *big.Rat) string {
	f, _ := r.Float64() // near enough for people
	return strconv.FormatFloat(f, 'f', -1, 64)
}

func listed(values []any) string {
	words := make([]string, len(values))
	for i, v := range values {
		b, err := json.Marshal(v)
		if err != nil { // cannot be: it was JSON
			b = []byte("?")
		}
		words[i] = string(b)
	}
	return strings.Join(words, ", ")
}

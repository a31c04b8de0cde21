package saga

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"
	"cel.dev/cel-go/common/types/traits"
)

// maxCost bounds one evaluation, in CEL's own cost units (see also [costs]): an
// expression cannot hang the engine, whatever it is given.
const maxCost = 100_000

// maxPayload bounds what an expression makes, in bytes: a list of ten thousand
// references to the input costs little, and says the input ten thousand times.
const maxPayload = 1 << 20

// expression is a compiled CEL expression (https://cel.dev) over `input` and
// `steps`, the results of the steps before this one by name.
type expression struct {
	text    string
	program cel.Program
}

// sight is what expressions see. It holds no state and is safe for concurrent
// use.
type sight struct {
	env *cel.Env
	err error
}

func seeing(variables ...cel.EnvOption) sight {
	env, err := cel.NewEnv(variables...)
	return sight{env, err}
}

var (
	environment = seeing(cel.Variable("input", cel.DynType), cel.Variable("steps", cel.MapType(cel.StringType, cel.DynType)))
	atStart     = seeing(cel.Variable("input", cel.DynType)) // before any step
)

// must is what an expression has to give.
type must struct {
	kind *cel.Type
	be   string
}

var (
	anything = must{cel.DynType, "anything"}
	yesOrNo  = must{cel.BoolType, "true or false"}
	aText    = must{cel.StringType, "a text"}
)

// compile checks an expression; an empty text gives nil.
func compile(in sight, text string, give must) (*expression, error) {
	if text == "" {
		return nil, nil
	}
	if in.err != nil {
		return nil, in.err
	}
	ast, issues := in.env.Compile(text)
	if found := issues.Errors(); len(found) > 0 {
		places := make([]string, len(found))
		for i, e := range found {
			places[i] = fmt.Sprintf("%s, at line %d, character %d of the expression", e.Message, e.Location.Line(), e.Location.Column()+1)
		}
		return nil, errors.New(strings.ReplaceAll(strings.Join(places, "; "), "\n", " "))
	}
	if t := ast.OutputType(); give != anything && !t.IsExactType(give.kind) && !t.IsExactType(cel.DynType) {
		return nil, fmt.Errorf("must be %s, is %s", give.be, t)
	}
	program, err := in.env.Program(ast, cel.CostLimit(maxCost), cel.CostTracking(costs{}), cel.EvalOptions(cel.OptOptimize))
	if err != nil {
		return nil, err
	}
	return &expression{text: text, program: program}, nil
}

// scope is what the expressions of one saga see at one moment. JSON is decoded
// when the first expression asks for it.
type scope struct {
	def   *Definition
	input json.RawMessage
	steps []StepState

	decoded any
}

// condition evaluates `when` of step i.
func (sc *scope) condition(i int) (bool, error) {
	when := sc.def.Steps[i].when
	if when == nil {
		return true, nil
	}
	out, err := sc.eval(when, sc.def.Steps[i].ancestors)
	if err != nil {
		return false, fmt.Errorf("when `%s`: %w", when.text, err)
	}
	b, ok := out.(types.Bool)
	if !ok {
		return false, fmt.Errorf("when `%s`: gave %s, not true or false", when.text, out.Type().TypeName())
	}
	return bool(b), nil
}

// payload makes the body of a command of step i. A compensation also sees the
// result of its own action. Only results of earlier steps are visible, so
// every attempt of an effect carries the same payload.
func (sc *scope) payload(i int, phase Phase) (json.RawMessage, error) {
	step := sc.def.Steps[i]
	visible := step.ancestors
	if phase == Compensation {
		visible = append(slices.Clone(visible), i)
	}
	if step.payload == nil {
		return sc.everything(visible), nil
	}
	out, err := sc.eval(step.payload, visible)
	var b []byte
	if err == nil {
		b, err = appendJSON(nil, out)
	}
	if err != nil {
		return nil, fmt.Errorf("payload `%s`: %w", step.payload.text, err)
	}
	return b, nil
}

// everything is what a step without a payload expression sends.
func (sc *scope) everything(visible []int) json.RawMessage {
	b := append([]byte(`{"input":`), sc.input...)
	b = append(b, `,"steps":{`...)
	comma := false
	for _, i := range visible {
		if sc.steps[i].Result == nil {
			continue
		}
		if comma {
			b = append(b, ',')
		}
		comma = true
		b = append(b, '"')
		b = append(b, sc.def.Steps[i].Name...) // needs no escaping: [a-z0-9-]+
		b = append(b, `":`...)
		b = append(b, sc.steps[i].Result...)
	}
	return append(b, "}}"...)
}

func (sc *scope) eval(e *expression, visible []int) (ref.Val, error) {
	if sc.decoded == nil {
		v, err := decodeJSON(sc.input)
		if err != nil {
			return nil, fmt.Errorf("input: %w", err)
		}
		sc.decoded = v
	}
	results := map[string]any{}
	for _, i := range visible {
		if sc.steps[i].Result == nil {
			continue
		}
		v, err := decodeJSON(sc.steps[i].Result)
		if err != nil {
			return nil, fmt.Errorf("result of %s: %w", sc.def.Steps[i].Name, err)
		}
		results[sc.def.Steps[i].Name] = v
	}
	out, _, err := e.program.Eval(map[string]any{"input": sc.decoded, "steps": results})
	return out, err
}

// appendJSON encodes a CEL value, map keys sorted.
func appendJSON(b []byte, v ref.Val) ([]byte, error) {
	if len(b) > maxPayload {
		return nil, fmt.Errorf("is larger than %d bytes", maxPayload)
	}
	switch v := v.(type) {
	case traits.Mapper:
		return appendMap(b, v)
	case traits.Lister:
		b = append(b, '[')
		n := int64(v.Size().(types.Int)) //nolint:errcheck,forcetypeassert // a list's size is an int
		for i := range n {
			if i > 0 {
				b = append(b, ',')
			}
			var err error
			if b, err = appendJSON(b, v.Get(types.Int(i))); err != nil {
				return nil, err
			}
		}
		return append(b, ']'), nil
	case types.Null:
		return append(b, "null"...), nil
	case types.Bool, types.Int, types.Uint, types.Double, types.String:
		enc, err := json.Marshal(v.Value())
		return append(b, enc...), err
	}
	return nil, fmt.Errorf("a value of type %s cannot be sent as JSON", v.Type().TypeName())
}

func appendMap(b []byte, m traits.Mapper) ([]byte, error) {
	var keys []string
	for it := m.Iterator(); it.HasNext() == types.True; {
		key, ok := it.Next().(types.String)
		if !ok {
			return nil, errors.New("the keys of a JSON object are strings")
		}
		keys = append(keys, string(key))
	}
	slices.Sort(keys)
	b = append(b, '{')
	for i, key := range keys {
		if i > 0 {
			b = append(b, ',')
		}
		enc, err := json.Marshal(key)
		if err != nil {
			return nil, err
		}
		b = append(append(b, enc...), ':')
		if b, err = appendJSON(b, m.Get(types.String(key))); err != nil {
			return nil, err
		}
	}
	return append(b, '}'), nil
}

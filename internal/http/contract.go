package http

import (
	"fmt"
	"maps"
	stdhttp "net/http"
	"slices"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/go-chi/chi/v5"

	"github.com/skald-saga/skald"
)

// contract is openapi.yaml, read once.
type contract struct {
	doc        *openapi3.T
	yaml, json []byte
	operations map[string]operation // by method and path template
}

// operation is what the checks of a request need to know about it.
type operation struct {
	id      string
	query   map[string]bool   // known query parameters
	open    []string          // beginnings of further query parameters, whose values are texts
	in      map[string]string // where a parameter is, by its name
	hasBody bool
	media   []string // of the body
}

func loadContract() (*contract, error) {
	c := &contract{yaml: skald.OpenAPI(), operations: map[string]operation{}}
	var err error
	if c.doc, err = openapi3.NewLoader().LoadFromData(c.yaml); err != nil {
		return nil, fmt.Errorf("load openapi.yaml: %w", err)
	}
	if c.json, err = c.doc.MarshalJSON(); err != nil {
		return nil, fmt.Errorf("encode openapi.yaml as JSON: %w", err)
	}
	for path, item := range c.doc.Paths.Map() {
		for method, o := range item.Operations() {
			op := operation{id: o.OperationID, query: map[string]bool{}, in: map[string]string{}, hasBody: o.RequestBody != nil}
			if prefixes, ok := o.Extensions["x-query-prefixes"].([]any); ok {
				for _, prefix := range prefixes {
					op.open = append(op.open, fmt.Sprint(prefix))
				}
			}
			if o.RequestBody != nil {
				op.media = slices.Sorted(maps.Keys(o.RequestBody.Value.Content))
			}
			for _, list := range []openapi3.Parameters{item.Parameters, o.Parameters} {
				for _, p := range list {
					op.in[p.Value.Name] = p.Value.In
					op.query[p.Value.Name] = p.Value.In == openapi3.ParameterInQuery
				}
			}
			c.operations[method+" "+path] = op
		}
	}
	return c, nil
}

// operation finds the operation that the router has chosen; a request that
// matched none gives the zero value.
func (c *contract) operation(r *stdhttp.Request) operation {
	route := chi.RouteContext(r.Context())
	if route == nil {
		return operation{}
	}
	return c.operations[r.Method+" "+route.RoutePattern()]
}

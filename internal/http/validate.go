package http

import (
	"context"
	"errors"
	"fmt"
	stdhttp "net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/getkin/kin-openapi/openapi3filter"
	nethttpmiddleware "github.com/oapi-codegen/nethttp-middleware"

	"github.com/skald-saga/skald/internal/http/api"
)

// maxErrors is how many places one problem points at.
const maxErrors = 20

// validate checks requests against openapi.yaml. Bodies in YAML are checked by
// those who read them, with the line of each mistake.
func (s *server) validate() func(stdhttp.Handler) stdhttp.Handler {
	whole, head := s.validator(false), s.validator(true)
	return func(next stdhttp.Handler) stdhttp.Handler {
		withBody, withoutBody := whole(next), head(next)
		return stdhttp.HandlerFunc(func(w stdhttp.ResponseWriter, r *stdhttp.Request) {
			if r.Header.Get("Content-Type") == yamlMedia && slices.Contains(s.contract.operation(r).media, yamlMedia) {
				withoutBody.ServeHTTP(w, r)
				return
			}
			withBody.ServeHTTP(w, r)
		})
	}
}

func (s *server) validator(excludeBody bool) func(stdhttp.Handler) stdhttp.Handler {
	return nethttpmiddleware.OapiRequestValidatorWithOptions(s.contract.doc, &nethttpmiddleware.Options{
		Options: openapi3filter.Options{
			MultiError:          true,
			ExcludeRequestBody:  excludeBody,
			SkipSettingDefaults: true,
			AuthenticationFunc:  openapi3filter.NoopAuthenticationFunc,
		},
		DoNotValidateServers:  true,
		DiscardValidatedValue: true, // handlers decode what was sent, so that free-form input stays as it was written
		ErrorHandlerWithOpts: func(_ context.Context, err error, w stdhttp.ResponseWriter, r *stdhttp.Request, opts nethttpmiddleware.ErrorHandlerOpts) {
			if opts.MatchedRoute == nil { // a path that only the router takes for one of ours, such as one with an encoded slash
				s.fail(w, r, notFound())
				return
			}
			f := &failure{code: api.ProblemCodeBadRequest}
			f.collect("#", err)
			if len(f.errors) > maxErrors {
				f.errors = f.errors[:maxErrors]
			}
			s.fail(w, r, f)
		},
	})
}

// collect finds the places that a validation error is about.
func (f *failure) collect(where string, err error) {
	var schema *openapi3.SchemaError
	var parse *openapi3filter.ParseError
	switch e := err.(type) { //nolint:errorlint // it is taken apart level by level
	case openapi3.MultiError:
		for _, each := range e {
			f.collect(where, each)
		}
		return
	case *openapi3filter.RequestError:
		if e.Parameter == nil {
			f.collect(where, e.Err)
			return
		}
		where = e.Parameter.In + ":" + e.Parameter.Name
		if errors.As(e.Err, &parse) {
			f.add(where, expectedType(e.Parameter.Schema.Value))
			return
		}
		f.collect(where, e.Err)
		return
	}
	switch {
	case errors.As(err, &schema):
		if schema.SchemaField == "format" && schema.Schema.Max != nil {
			return // the maximum says it better
		}
		f.add(placeOf(where, schema), expectation(schema))
	case errors.Is(err, openapi3filter.ErrInvalidRequired):
		f.add(where, "is required")
	case errors.Is(err, openapi3filter.ErrInvalidEmptyValue):
		f.add(where, "must not be empty")
	default:
		f.add(where, "is not as openapi.yaml describes it")
	}
}

func (f *failure) add(pointer, detail string) {
	f.errors = append(f.errors, api.FieldError{Pointer: pointer, Detail: detail})
}

// placeOf is the pointer of a schema error; in parameters, the parameter.
func placeOf(where string, e *openapi3.SchemaError) string {
	if where != "#" {
		return where
	}
	path := e.JSONPointer()
	if e.SchemaField == "properties" {
		path = append(path, unknownProperty(e.Reason))
	}
	return pointer(path)
}

// unknownProperty takes the name out of `property "name" is unsupported`,
// where the validator has put it.
func unknownProperty(reason string) string {
	quoted := strings.TrimSuffix(strings.TrimPrefix(reason, "property "), " is unsupported")
	name, err := strconv.Unquote(quoted)
	if err != nil {
		return "?"
	}
	return name
}

// expectation says what a schema expects, without the value that broke it.
func expectation(e *openapi3.SchemaError) string {
	s := e.Schema
	switch e.SchemaField {
	case "required":
		return "is required"
	case "properties":
		return "is not known here"
	case "nullable":
		return "must not be null"
	case "type":
		return expectedType(s)
	case "minLength":
		return fmt.Sprintf("must have at least %d characters", s.MinLength)
	case "maxLength":
		return fmt.Sprintf("must have at most %d characters", *s.MaxLength)
	case "minItems":
		return fmt.Sprintf("must have at least %d items", s.MinItems)
	case "maxItems":
		return fmt.Sprintf("must have at most %d items", *s.MaxItems)
	case "minimum":
		return "must be at least " + strconv.FormatFloat(*s.Min, 'f', -1, 64)
	case "maximum":
		return "must be at most " + strconv.FormatFloat(*s.Max, 'f', -1, 64)
	case "pattern", "format":
		if words, ok := s.Extensions["x-must-be"].(string); ok {
			return "must be " + words
		}
		if s.Pattern == "" {
			return "must be a " + s.Format
		}
		return "must match " + s.Pattern
	case "enum":
		words := make([]string, len(s.Enum))
		for i, v := range s.Enum {
			words[i] = fmt.Sprint(v)
		}
		return "must be one of " + strings.Join(words, ", ")
	}
	return "is not as openapi.yaml describes it"
}

func expectedType(s *openapi3.Schema) string {
	switch {
	case s.Type.Is(openapi3.TypeInteger):
		return "must be a whole number"
	case s.Type.Is(openapi3.TypeArray):
		return "must be an array"
	case s.Type.Is(openapi3.TypeObject):
		return "must be an object"
	case s.Type.Is(openapi3.TypeString):
		return "must be a string"
	case s.Type.Is(openapi3.TypeBoolean):
		return "must be true or false"
	}
	return "has the wrong type"
}

// badParameter is for parameters that the validator let through and that still
// cannot be bound.
func (s *server) badParameter(w stdhttp.ResponseWriter, r *stdhttp.Request, err error) {
	var name string
	var format *api.InvalidParamFormatError
	var many *api.TooManyValuesForParamError
	switch {
	case errors.As(err, &format):
		name = format.ParamName
	case errors.As(err, &many):
		name = many.ParamName
	default:
		s.fail(w, r, &failure{code: api.ProblemCodeBadRequest})
		return
	}
	s.fail(w, r, at(api.ProblemCodeBadRequest, s.contract.operation(r).in[name]+":"+name, "has the wrong form"))
}

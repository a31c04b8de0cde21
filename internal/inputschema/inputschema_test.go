package inputschema_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/skald-saga/skald/internal/inputschema"
)

const transfer = `{
	"type": "object", "additionalProperties": false, "required": ["from", "amount"],
	"properties": {
		"from": {"type": "string", "minLength": 1, "maxLength": 5},
		"amount": {"type": "string", "pattern": "^[0-9]+$"},
		"kind": {"enum": ["now", "later"]},
		"at": {"type": "string", "format": "date-time"},
		"parts": {"type": "array", "minItems": 1, "items": {"$ref": "#/$defs/part"}},
		"either": {"oneOf": [{"type": "string"}, {"type": "integer", "minimum": 3}]}
	},
	"$defs": {"part": {"type": "object", "properties": {"n": {"type": "integer", "maximum": 9.5}}}}
}`

func lines(found []inputschema.Problem) (lines []string) {
	for _, p := range found {
		lines = append(lines, strings.Join(p.Path, "/")+" "+p.Detail)
	}
	return lines
}

func TestAnInputIsHeldToItsSchemaPlaceByPlace(t *testing.T) {
	t.Parallel()
	schema, found := inputschema.Compile([]byte(transfer))
	if len(found) > 0 {
		t.Fatal(found)
	}
	for input, want := range map[string][]string{
		`{"from": "a", "amount": "1"}`:                                   nil,
		`{"from": "a", "amount": "1", "at": "2026-01-02T03:04:05Z"}`:     nil,
		`{"from": "a", "amount": "1", "parts": [{"n": 3}], "either": 3}`: nil,
		`[]`: {" must be of type object"},
		`{}`: {"amount is required", "from is required"},
		`{"from": 7, "amount": "secret", "kind": "secret"}`:                  {`amount must match ^[0-9]+$`, `from must be of type string`, `kind must be one of "now", "later"`},
		`{"from": "", "amount": "1", "secret": 1}`:                           {"from must have at least 1 characters", "secret is not known here"},
		`{"from": "secret", "amount": "1"}`:                                  {"from must have at most 5 characters"},
		`{"from": "a", "amount": "1", "at": "secret"}`:                       {"at must have the format date-time"},
		`{"from": "a", "amount": "1", "parts": [{"n": 1}, {"n": 10}, true]}`: {"parts/1/n must be at most 9.5", "parts/2 must be of type object"},
		`{"from": "a", "amount": "1", "parts": []}`:                          {"parts must have at least 1 items"},
		`{"from": "a", "amount": "1", "either": 2}`:                          {"either must be as one of the alternatives says, and only one if it is oneOf"},
	} {
		got := lines(schema.Check([]byte(input)))
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s: -want +got\n%s", input, diff)
		}
		if strings.Contains(fmt.Sprint(got), "secret is not known") != strings.Contains(input, `"secret": 1`) {
			t.Errorf("%s: a value of the caller's is in %q", input, got)
		}
	}
}

func TestASchemaThatIsNoneIsRefusedWithThePlace(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		`{"type": "strnig"}`: "type ", `{"properties": {"a": {"minLength": -1}}}`: "properties/a/minLength must be at least 0",
		`{"required": "a"}`: "required must be of type array", `{"properties": []}`: "properties must be of type object",
		`{"$ref": "https://example.org/schema.json"}`:                           " references lead only to places in the schema itself",
		`{"$ref": "file:///etc/passwd"}`:                                        " references lead only to places in the schema itself",
		`{"$schema": "https://example.org/meta.json"}`:                          " references lead only to places in the schema itself",
		`{"$ref": "#/$defs/nothing"}`:                                           " ",
		`{"pattern": "("}`:                                                      "pattern must have the format regex",
		`{"$id": "https://example.org/a", "$ref": "other.json"}`:                " references lead only to places in the schema itself",
		`{"$schema": "http://json-schema.org/draft-07/schema#", "minimum": ""}`: "minimum must be of type number",
	} {
		schema, found := inputschema.Compile([]byte(text))
		got := lines(found)
		if schema != nil || len(got) != 1 || !strings.HasPrefix(got[0], want) || strings.Contains(got[0], "skald:") {
			t.Errorf("%s: %q, want %q", text, got, want)
		}
	}
	if schema, found := inputschema.Compile(nil); len(found) > 0 || len(schema.Check([]byte(`7`))) > 0 {
		t.Error("no schema is to let everything pass")
	}
}

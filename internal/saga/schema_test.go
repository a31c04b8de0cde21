package saga

import (
	"bytes"
	"encoding/json"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/santhosh-tekuri/jsonschema/v6"
	"go.yaml.in/yaml/v3"
)

const schemaFile = "../../definitions/saga.schema.json"

// published is the schema that editors check definitions with.
func published(t *testing.T) *jsonschema.Schema {
	t.Helper()
	schema, err := jsonschema.NewCompiler().Compile(schemaFile)
	if err != nil {
		t.Fatal(err)
	}
	return schema
}

// asJSON is a text as validators see it.
func asJSON(t *testing.T, text string) any {
	t.Helper()
	var node yaml.Node
	if err := yaml.Unmarshal([]byte(text), &node); err != nil {
		t.Fatal(err)
	}
	var f freeform
	if err := f.UnmarshalYAML(node.Content[0]); err != nil {
		t.Fatal(err)
	}
	v, err := jsonschema.UnmarshalJSON(bytes.NewReader(f))
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func TestTheSchemaHasEveryFieldOfTheParserAndNoOther(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile(schemaFile)
	if err != nil {
		t.Fatal(err)
	}
	type object struct {
		Properties map[string]struct{ Description string } `json:"properties"`
		Closed     *bool                                   `json:"additionalProperties"`
	}
	var schema struct {
		object
		Defs map[string]object `json:"$defs"`
	}
	if err := json.Unmarshal(text, &schema); err != nil {
		t.Fatal(err)
	}
	for document, described := range map[any]object{
		document{}.typed(): schema.object, documentStep{}.typed(): schema.Defs["step"], documentRetry{}.typed(): schema.Defs["retry"],
	} {
		var fields []string
		for field := range document.(reflect.Type).Fields() {
			fields = append(fields, field.Tag.Get("yaml"))
		}
		slices.Sort(fields)
		if diff := cmp.Diff(fields, slices.Sorted(maps.Keys(described.Properties))); diff != "" {
			t.Errorf("%v: -parser +schema\n%s", document, diff)
		}
		if described.Closed == nil || *described.Closed {
			t.Errorf("%v: the schema lets unknown fields pass", document)
		}
		for name, property := range described.Properties {
			if property.Description == "" {
				t.Errorf("%v: an editor has nothing to say of %s", document, name)
			}
		}
	}
}

func (document) typed() any      { return reflect.TypeFor[document]() }
func (documentStep) typed() any  { return reflect.TypeFor[documentStep]() }
func (documentRetry) typed() any { return reflect.TypeFor[documentRetry]() }

func TestWhatIsShippedAndShownFitsTheSchema(t *testing.T) {
	t.Parallel()
	schema := published(t)
	texts := map[string]string{}
	for i, block := range regexp.MustCompile("(?s)```(?:yaml|json)\n(.*?)```").FindAllStringSubmatch(reference(t), -1) {
		texts["example "+string(rune('1'+i))] = block[1]
	}
	files, err := filepath.Glob("../../definitions/*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		texts[file] = string(text)
		if !strings.HasPrefix(string(text), "# yaml-language-server: $schema=saga.schema.json\n") {
			t.Errorf("%s: an editor does not know its schema", file)
		}
	}
	for name, text := range texts {
		if err := schema.Validate(asJSON(t, text)); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// An editor must not say that something is wrong which the server takes. The
// other way round it says what it can: most of what the parser refuses.
func TestTheSchemaAndTheParserAgree(t *testing.T) {
	t.Parallel()
	schema := published(t)
	const undo = ", compensation: undo"
	one := func(fields string) string {
		return "name: d\nsteps:\n- {name: a, participant: p, action: do" + fields + "}\n"
	}
	for text, right := range map[string]bool{
		one(undo):                         true,
		one(", compensation: none"):       true,
		one(""):                           false,
		one(", kind: pivot"):              true,
		one(", kind: pivot" + undo):       false,
		one(", kind: notification"):       true,
		one(", kind: optional" + undo):    false,
		one(", kind: compensatable"):      false,
		one(undo + ", timeout: 1m30s"):    true,
		one(undo + ", timeout: 1.5h"):     true,
		one(undo + ", timeout: 15"):       false,
		one(undo + ", timeout: -1s"):      false,
		one(undo + ", timeout: soon"):     false,
		one(undo + ", after: []"):         true,
		one(undo + ", after: a"):          false,
		one(undo + ", tries: 3"):          false,
		one(undo + ", retry: {tries: 3}"): false,
		one(undo + ", retry: {max_attempts: 0, initial: 1s, max: 2s}"): true,
		one(undo + ", retry: {max_attempts: -1}"):                      false,
		one(undo + ", compensation_retry: {max: 1s}"):                  true,
		one(", kind: pivot, compensation_retry: {max: 1s}"):            false,
		one(", compensation: Undo"):                                    false,
		"deadline: 1m\non_deadline: suspend\n" + one(undo):             true,
		"on_deadline: suspend\n" + one(undo):                           false,
		"deadline: 1m\non_deadline: forget\n" + one(undo):              false,
		"on_stuck: continue\n" + one(undo):                             true,
		"on_stuck: forget\n" + one(undo):                               false,
		"events: all\n" + one(undo):                                    true,
		"events: some\n" + one(undo):                                   false,
		"max_parallel: 100\n" + one(undo):                              true,
		"max_parallel: 101\n" + one(undo):                              false,
		"input_schema: {type: object}\n" + one(undo):                   true,
		"input_schema: [object]\n" + one(undo):                         false,
		"search: [input.a, input.b.c-d]\n" + one(undo):                 true,
		"search: [input.a, input.a]\n" + one(undo):                     false,
		"search: [customer_id]\n" + one(undo):                          false,
		"search: [input]\n" + one(undo):                                false,
		"search: ['input.a b']\n" + one(undo):                          false,
		"name: d\nsteps: []":                                           false,
		"steps: []":                                                    false,
		"name: d":                                                      false,
	} {
		_, err := Parse([]byte(text))
		if parsed := err == nil; parsed != right {
			t.Errorf("the parser takes %q: %t, %v", text, parsed, err)
		}
		if err := schema.Validate(asJSON(t, text)); (err == nil) != right {
			t.Errorf("the schema takes %q: %t, %v", text, err == nil, err)
		}
	}
}

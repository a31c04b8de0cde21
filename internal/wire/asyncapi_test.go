package wire_test

import (
	"bytes"
	"encoding/json"
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.yaml.in/yaml/v3"

	"github.com/skald-saga/skald/internal/wire"
)

// contract is what these tests read of asyncapi.yaml.
type contract struct {
	Channels map[string]struct {
		Address   *string `yaml:"address"`
		JetStream jetSays `yaml:"x-jetstream"`
	} `yaml:"channels"`
	Components struct {
		Schemas  map[string]schema  `yaml:"schemas"`
		Messages map[string]message `yaml:"messages"`
	} `yaml:"components"`
}

type (
	jetSays struct{ Stream string }
	schema  struct {
		Ref        string            `yaml:"$ref"`
		Required   []string          `yaml:"required"`
		Properties map[string]schema `yaml:"properties"`
		AllOf      []schema          `yaml:"allOf"`
		Enum       []string          `yaml:"enum"`
		Const      string            `yaml:"const"`
	}
	message struct {
		Headers  schema `yaml:"headers"`
		Payload  schema `yaml:"payload"`
		Examples []struct {
			Headers map[string]string `yaml:"headers"`
			Payload any               `yaml:"payload"`
		} `yaml:"examples"`
	}
)

func readContract(t *testing.T) contract {
	t.Helper()
	text, err := os.ReadFile("../../asyncapi.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var c contract
	if err := yaml.Unmarshal(text, &c); err != nil {
		t.Fatal(err)
	}
	return c
}

// flat merges a schema with what it refers to.
func (c contract) flat(s schema) schema {
	merged := schema{Required: slices.Clone(s.Required), Properties: map[string]schema{}, Enum: s.Enum, Const: s.Const}
	parts := slices.Clone(s.AllOf)
	if name, ok := strings.CutPrefix(s.Ref, "#/components/schemas/"); ok {
		parts = append(parts, c.Components.Schemas[name])
	}
	for _, part := range parts {
		f := c.flat(part)
		merged.Required = append(merged.Required, f.Required...)
		maps.Copy(merged.Properties, f.Properties)
	}
	maps.Copy(merged.Properties, s.Properties)
	return merged
}

// headerConstants are the values of all constants in wire.go whose name begins
// with Header.
func headerConstants(t *testing.T) []string {
	t.Helper()
	file, err := parser.ParseFile(token.NewFileSet(), "wire.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	var values []string
	ast.Inspect(file, func(n ast.Node) bool {
		spec, ok := n.(*ast.ValueSpec)
		if !ok || !strings.HasPrefix(spec.Names[0].Name, "Header") {
			return true
		}
		value, err := strconv.Unquote(spec.Values[0].(*ast.BasicLit).Value)
		if err != nil {
			t.Fatal(err)
		}
		values = append(values, value)
		return true
	})
	return values
}

func sorted[T any](m map[string]T) []string { return slices.Sorted(maps.Keys(m)) }

func TestAsyncAPINamesEveryHeaderAndNoOther(t *testing.T) {
	t.Parallel()
	c := readContract(t)
	described := map[string]bool{}
	for name, m := range c.Components.Messages {
		headers := c.flat(m.Headers)
		if len(headers.Properties) == 0 {
			t.Errorf("message %s has no headers", name)
		}
		for header := range headers.Properties {
			described[header] = true
		}
	}
	code := headerConstants(t)
	slices.Sort(code)
	if diff := cmp.Diff(code, sorted(described)); diff != "" {
		t.Errorf("headers: -internal/wire +asyncapi.yaml:\n%s", diff)
	}
}

// The headers of a message are those that the code writes: required those that
// are always there, described all that may be.
func TestAsyncAPIDescribesTheHeadersThatAreWritten(t *testing.T) {
	t.Parallel()
	c := readContract(t)
	leanAction, fullAction := actionCommand(), actionCommand()
	leanAction.NotAfter = time.Time{}
	fullAction.Trace = wire.Trace{Parent: "a", State: "b"}
	leanUndo, fullUndo := compensationCommand(), compensationCommand()
	fullUndo.NotAfter, fullUndo.Trace = t0, wire.Trace{Parent: "a", State: "b"}
	for name, lean := range map[string]wire.Command{"actionCommand": leanAction, "compensationCommand": leanUndo} {
		full := fullAction
		if name == "compensationCommand" {
			full = fullUndo
		}
		s := c.flat(c.Components.Messages[name].Headers)
		slices.Sort(s.Required)
		if diff := cmp.Diff(sorted(received(t, lean)), s.Required); diff != "" {
			t.Errorf("%s: -always written +required:\n%s", name, diff)
		}
		if diff := cmp.Diff(sorted(received(t, full)), sorted(s.Properties)); diff != "" {
			t.Errorf("%s: -written +described:\n%s", name, diff)
		}
	}
	s := c.flat(c.Components.Messages["event"].Headers)
	slices.Sort(s.Required)
	if diff := cmp.Diff(sorted(delivered(t, wire.Event{}.AppendHeaders(nil))), s.Required); diff != "" {
		t.Errorf("events: -always written +required:\n%s", diff)
	}
	if diff := cmp.Diff(sorted(delivered(t, wire.Event{Trace: wire.Trace{Parent: "a", State: "b"}}.AppendHeaders(nil))), sorted(s.Properties)); diff != "" {
		t.Errorf("events: -written +described:\n%s", diff)
	}
	reply := wire.Reply{EffectID: effect(wire.Action, 1), Outcome: wire.Failed, MsgID: "m", Attempt: 1}
	s = c.flat(c.Components.Schemas["replyHeaders"])
	if diff := cmp.Diff(sorted(reply.Header()), sorted(s.Properties)); diff != "" {
		t.Errorf("replies: -written +described:\n%s", diff)
	}
	if diff := cmp.Diff([]string{wire.HeaderEffectID, wire.HeaderOutcome}, s.Required); diff != "" {
		t.Errorf("replies: -required by DecodeReply +required:\n%s", diff)
	}
}

// The body of an event has the fields that the code writes.
func TestAsyncAPIDescribesTheBodyOfAnEvent(t *testing.T) {
	t.Parallel()
	c := readContract(t)
	lean, full := wire.Event{}, wire.Event{
		Step: "s", Phase: wire.Action, Generation: 1, Attempt: 1, Reason: "r", Actor: "a", Error: &wire.Problem{Code: "c", Message: "m", Step: "s"},
	}
	fields := func(e wire.Event) map[string]any {
		var body map[string]any
		if err := json.Unmarshal(e.Payload(), &body); err != nil {
			t.Fatal(err)
		}
		return body
	}
	s := c.flat(c.Components.Messages["event"].Payload)
	slices.Sort(s.Required)
	if diff := cmp.Diff(sorted(fields(lean)), s.Required); diff != "" {
		t.Errorf("-always written +required:\n%s", diff)
	}
	if diff := cmp.Diff(sorted(fields(full)), sorted(s.Properties)); diff != "" {
		t.Errorf("-written +described:\n%s", diff)
	}
	if diff := cmp.Diff(sorted(fields(full)["error"].(map[string]any)), sorted(c.flat(s.Properties["error"]).Properties)); diff != "" {
		t.Errorf("error: -written +described:\n%s", diff)
	}
}

func TestAsyncAPIListsTheOutcomes(t *testing.T) {
	t.Parallel()
	c := readContract(t)
	outcomes := c.flat(c.Components.Schemas["replyHeaders"]).Properties[wire.HeaderOutcome].Enum
	if diff := cmp.Diff([]string{string(wire.Succeeded), string(wire.Failed), string(wire.Retry), string(wire.InProgress)}, outcomes); diff != "" {
		t.Errorf("outcomes of a reply: -internal/wire +asyncapi.yaml:\n%s", diff)
	}
	told := c.flat(c.Components.Messages["compensationCommand"].Headers).Properties[wire.HeaderActionOutcome].Enum
	if diff := cmp.Diff([]string{string(wire.Succeeded), string(wire.Unknown)}, told); diff != "" {
		t.Errorf("what a compensation is told: -internal/wire +asyncapi.yaml:\n%s", diff)
	}
	var each []string
	for _, name := range []string{"succeeded", "failed", "retry", "inProgress"} {
		each = append(each, c.flat(c.Components.Messages[name].Headers).Properties[wire.HeaderOutcome].Const)
	}
	if diff := cmp.Diff(outcomes, each); diff != "" {
		t.Errorf("outcomes: -listed +one message each:\n%s", diff)
	}
}

func TestAsyncAPIFixesTheConstantValues(t *testing.T) {
	t.Parallel()
	c := readContract(t)
	for _, v := range []struct{ schema, header, want string }{
		{"commandHeaders", wire.HeaderSpecVersion, wire.SpecVersion},
		{"commandHeaders", wire.HeaderType, wire.TypeCommand},
		{"commandHeaders", wire.HeaderSource, wire.Source},
		{"commandHeaders", wire.HeaderContentType, wire.ContentType},
		{"eventHeaders", wire.HeaderSpecVersion, wire.SpecVersion},
		{"eventHeaders", wire.HeaderType, wire.TypeEvent},
		{"eventHeaders", wire.HeaderSource, wire.Source},
		{"eventHeaders", wire.HeaderContentType, wire.ContentType},
		{"replyHeaders", wire.HeaderSpecVersion, wire.SpecVersion},
		{"replyHeaders", wire.HeaderType, wire.TypeReply},
		{"replyHeaders", wire.HeaderContentType, wire.ContentType},
	} {
		if got := c.Components.Schemas[v.schema].Properties[v.header].Const; got != v.want {
			t.Errorf("%s of %s is %q, want %q", v.header, v.schema, got, v.want)
		}
	}
}

func TestAsyncAPINamesTheSubjectsAndStreams(t *testing.T) {
	t.Parallel()
	c := readContract(t)
	commands, replies, events := c.Channels["commands"], c.Channels["replies"], c.Channels["events"]
	if want := wire.EventSubject("skald", "{definition}", "{type}"); events.Address == nil || *events.Address != want {
		t.Errorf("events have the address %v, want %s", events.Address, want)
	}
	if events.JetStream.Stream != wire.EventsStream("skald") {
		t.Errorf("stream %q", events.JetStream.Stream)
	}
	if want := wire.CommandSubject("skald", "{participant}", "{action}"); commands.Address == nil || *commands.Address != want {
		t.Errorf("commands have the address %v, want %s", commands.Address, want)
	}
	if replies.Address == nil || strings.Replace(*replies.Address, "{partition}", "7", 1) != wire.ReplySubject("skald", 7) {
		t.Errorf("replies have the address %v", replies.Address)
	}
	if commands.JetStream.Stream != wire.CommandsStream("skald") || replies.JetStream.Stream != wire.RepliesStream("skald") {
		t.Errorf("streams %q and %q", commands.JetStream.Stream, replies.JetStream.Stream)
	}
}

func TestTheExamplesOfAsyncAPICanBeRead(t *testing.T) {
	t.Parallel()
	for name, m := range readContract(t).Components.Messages {
		if len(m.Examples) == 0 {
			t.Errorf("message %s has no example", name)
		}
		for _, example := range m.Examples {
			h := map[string][]string{}
			for k, v := range example.Headers {
				h[k] = []string{v}
			}
			body, err := json.Marshal(example.Payload)
			if err != nil {
				t.Fatal(err)
			}
			switch {
			case name == "event":
				dec := json.NewDecoder(bytes.NewReader(body))
				dec.DisallowUnknownFields()
				err = dec.Decode(new(wire.Event))
			case strings.HasSuffix(name, "Command"):
				_, err = wire.DecodeCommand("skald.cmd.inventory.reserve", h, body)
			default:
				_, err = wire.DecodeReply(h, body)
			}
			if err != nil {
				t.Errorf("example of %s: %v", name, err)
			}
		}
	}
}

package saga

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"time"

	"go.yaml.in/yaml/v3"
)

// MaxSteps bounds a definition: a saga's state is one row.
const MaxSteps = 100

// Defaults for what a definition leaves out.
const (
	defaultTimeout     = 10 * time.Second
	defaultMaxDuration = time.Hour
)

var (
	defaultRetry        = RetryPolicy{MaxAttempts: 5, Initial: 200 * time.Millisecond, Max: 30 * time.Second}
	defaultRetriable    = RetryPolicy{MaxAttempts: 0, Initial: 200 * time.Millisecond, Max: 30 * time.Second}
	defaultCompensation = RetryPolicy{MaxAttempts: 20, Initial: 200 * time.Millisecond, Max: 30 * time.Second}
)

// document is the file format, in YAML or JSON.
type document struct {
	Name        string         `yaml:"name" json:"name"`
	Deadline    duration       `yaml:"deadline" json:"deadline,omitzero"`
	OnDeadline  OnDeadline     `yaml:"on_deadline" json:"on_deadline,omitempty"`
	OnStuck     OnStuck        `yaml:"on_stuck" json:"on_stuck,omitempty"`
	MaxParallel int            `yaml:"max_parallel" json:"max_parallel,omitempty"`
	Lock        string         `yaml:"lock" json:"lock,omitempty"`
	Events      Events         `yaml:"events" json:"events,omitempty"`
	InputSchema freeform       `yaml:"input_schema" json:"input_schema,omitempty"`
	Search      []string       `yaml:"search" json:"search,omitempty"`
	Steps       []documentStep `yaml:"steps" json:"steps"`
}

type documentStep struct {
	Name              string         `yaml:"name" json:"name"`
	Participant       string         `yaml:"participant" json:"participant"`
	Action            string         `yaml:"action" json:"action"`
	Compensation      string         `yaml:"compensation" json:"compensation,omitempty"`
	Kind              Kind           `yaml:"kind" json:"kind,omitempty"`
	After             *[]string      `yaml:"after" json:"after,omitempty"`
	Timeout           duration       `yaml:"timeout" json:"timeout,omitzero"`
	MaxDuration       duration       `yaml:"max_duration" json:"max_duration,omitzero"`
	Retry             *documentRetry `yaml:"retry" json:"retry,omitempty"`
	CompensationRetry *documentRetry `yaml:"compensation_retry" json:"compensation_retry,omitempty"`
	When              string         `yaml:"when" json:"when,omitempty"`
	Payload           string         `yaml:"payload" json:"payload,omitempty"`
}

type documentRetry struct {
	MaxAttempts *int     `yaml:"max_attempts" json:"max_attempts,omitempty"`
	Initial     duration `yaml:"initial" json:"initial,omitzero"`
	Max         duration `yaml:"max" json:"max,omitzero"`
}

// Parse reads a definition from YAML or JSON. Unknown fields are refused. An
// error is a [*ParseError] and lists what is wrong, with its place, not only
// the first: in the form, else in the steps, else in the graph that they make.
// What also is to be checked of a definition that is right so far, is given as
// checks; the paths of their problems begin at the top of the text.
func Parse(text []byte, checks ...func(*Definition) []Problem) (*Definition, error) {
	root, unread := readYAML(text)
	if unread != nil {
		return nil, unread
	}
	f := form{lines: map[string]int{}}
	if f.check(root, reflect.TypeFor[document](), nil); len(f.problems) > 0 {
		return nil, &ParseError{f.problems}
	}
	var doc document
	if err := root.Decode(&doc); err != nil { // cannot be: the form was checked
		return nil, notYAML(err)
	}
	d, problems := doc.definition()
	if len(problems) == 0 {
		problems = d.link()
	}
	for _, check := range checks {
		if len(problems) == 0 {
			problems = check(d)
		}
	}
	if len(problems) > 0 {
		for i := range problems {
			problems[i].Line = f.line(problems[i].Path)
		}
		return nil, &ParseError{problems}
	}
	source, err := json.Marshal(doc)
	if err != nil {
		return nil, fmt.Errorf("encode definition %s: %w", d.Name, err)
	}
	sum := sha256.Sum256(source)
	d.Source, d.Digest = source, hex.EncodeToString(sum[:])
	return d, nil
}

// problems are gathered while a document is taken apart.
type problems []Problem

func (ps *problems) addf(field, format string, args ...any) {
	detail := fmt.Sprintf(format, args...)
	*ps = append(*ps, Problem{Path: []string{field}, Detail: field + ": " + detail})
}

func (doc document) definition() (*Definition, []Problem) {
	var ps problems
	d := &Definition{Name: doc.Name, Deadline: time.Duration(doc.Deadline), OnDeadline: doc.OnDeadline, OnStuck: doc.OnStuck, MaxParallel: doc.MaxParallel, Events: doc.Events}
	if !validName(doc.Name) {
		ps.addf("name", "must match [a-z0-9-]+ and have at most 64 characters")
	}
	switch {
	case d.OnDeadline == "":
		d.OnDeadline = DeadlineCompensates
	case d.OnDeadline != DeadlineCompensates && d.OnDeadline != DeadlineSuspends:
		ps.addf("on_deadline", "must be compensate or suspend")
	case doc.Deadline == 0:
		ps.addf("on_deadline", "needs a deadline")
	}
	if d.MaxParallel < 0 || d.MaxParallel > MaxSteps {
		ps.addf("max_parallel", "must be 1 to %d, or left out for no limit", MaxSteps)
	}
	var err error
	if d.lock, err = compile(atStart, doc.Lock, aText); err != nil {
		ps.addf("lock", "%v", err)
	}
	switch d.OnStuck {
	case "":
		d.OnStuck = StuckWaits
	case StuckWaits, StuckContinues:
	default:
		ps.addf("on_stuck", "must be wait or continue")
	}
	switch d.Events {
	case "":
		d.Events = EventsTerminal
	case EventsNone, EventsTerminal, EventsAll:
	default:
		ps.addf("events", "must be none, terminal or all")
	}
	if len(doc.InputSchema) > 0 && doc.InputSchema[0] != '{' {
		ps.addf("input_schema", "must be a JSON Schema, written as named fields")
	}
	d.InputSchema, d.Search = json.RawMessage(doc.InputSchema), doc.Search
	searchable(doc.Search, ps.addf)
	if len(doc.Steps) == 0 || len(doc.Steps) > MaxSteps {
		ps.addf("steps", "a saga has 1 to %d", MaxSteps)
	}
	for i, ds := range doc.Steps {
		step, found := ds.step(d, i)
		for _, p := range found {
			ps = append(ps, p.inStep(i, ds.Name))
		}
		d.Steps = append(d.Steps, step)
	}
	return d, ps
}

// inStep says in which step a problem of a step is.
func (p Problem) inStep(i int, name string) Problem {
	p.Path = append([]string{"steps", strconv.Itoa(i)}, p.Path...)
	p.Detail = fmt.Sprintf("step %d (%q): %s", i+1, name, p.Detail)
	return p
}

func (ds documentStep) step(d *Definition, i int) (Step, []Problem) {
	var ps problems
	bad := ps.addf
	s := Step{
		Name: ds.Name, Participant: ds.Participant, Action: ds.Action, Compensation: ds.Compensation, Kind: ds.Kind,
		Timeout: time.Duration(ds.Timeout), MaxDuration: time.Duration(ds.MaxDuration),
		CompensationRetry: ds.CompensationRetry.over(defaultCompensation, "compensation_retry", bad),
	}
	for _, f := range [...]struct{ field, name string }{{"name", s.Name}, {"participant", s.Participant}, {"action", s.Action}} {
		if !validName(f.name) {
			bad(f.field, "must match [a-z0-9-]+ and have at most 64 characters")
		}
	}
	if s.Name != "" && d.Index(s.Name) >= 0 {
		bad("name", "there is another step of that name")
	}
	if s.Kind == "" {
		s.Kind = Compensatable
	}
	ds.operations(&s, bad)
	usual := defaultRetry
	if s.Kind == Retriable {
		usual = defaultRetriable
	}
	s.Retry = ds.Retry.over(usual, "retry", bad)
	if s.Timeout == 0 {
		s.Timeout = defaultTimeout
	}
	if s.MaxDuration == 0 {
		s.MaxDuration = defaultMaxDuration
	}
	s.After = ds.after(d, i, bad)
	var err error
	if s.when, err = compile(environment, ds.When, yesOrNo); err != nil {
		bad("when", "%v", err)
	}
	if s.payload, err = compile(environment, ds.Payload, anything); err != nil {
		bad("payload", "%v", err)
	}
	return s, ps
}

// operations checks what a step does and undoes, which depends on its kind.
func (ds documentStep) operations(s *Step, bad func(field, format string, args ...any)) {
	if s.Action == "none" {
		s.Action = ""
	}
	if s.Compensation == "none" {
		s.Compensation = ""
	}
	switch {
	case s.Kind != Compensatable && s.Kind != Pivot && s.Kind != Retriable && s.Kind != Notification:
		bad("kind", "must be compensatable, pivot, retriable or notification")
	case s.Kind != Compensatable && (ds.Compensation != "" || ds.CompensationRetry != nil):
		bad("compensation", "a %s step is never compensated", s.Kind)
	case s.Kind == Compensatable && ds.Compensation == "":
		bad("compensation", "must be given; write `none` if there is nothing to undo")
	case s.Compensation != "" && !validName(s.Compensation):
		bad("compensation", "must match [a-z0-9-]+ and have at most 64 characters")
	case s.Compensation != "" && s.Compensation == s.Action:
		bad("compensation", "must differ from the action")
	}
	switch {
	case ds.Action == "none" && (s.Kind != Compensatable || ds.Compensation == "none"):
		bad("action", "must be given: a step that does nothing must have something to undo")
	case ds.Action == "none" && ds.Retry != nil:
		bad("retry", "there is no action to be tried again")
	case s.Kind == Notification && (ds.Retry != nil || ds.Timeout != 0 || ds.MaxDuration != 0):
		bad("retry", "no answer to a notification is awaited: it has no retry, timeout or max_duration")
	}
}

// after resolves names; left out it means the step above.
func (ds documentStep) after(d *Definition, i int, bad func(field, format string, args ...any)) []int {
	if ds.After == nil {
		if i == 0 {
			return nil
		}
		return []int{i - 1}
	}
	var after []int
	for _, name := range *ds.After {
		p := d.Index(name)
		if p < 0 {
			bad("after", "no step %q stands above this one", name)
			continue
		}
		if slices.Contains(after, p) {
			bad("after", "%q is named twice", name)
		}
		after = append(after, p)
	}
	return after
}

// over lays what is given over a default policy. A first wait beyond the
// default's longest makes that one longer.
func (r *documentRetry) over(p RetryPolicy, field string, bad func(field, format string, args ...any)) RetryPolicy {
	if r == nil {
		return p
	}
	if r.MaxAttempts != nil {
		p.MaxAttempts = *r.MaxAttempts
	}
	if r.Initial != 0 {
		p.Initial = time.Duration(r.Initial)
	}
	if r.Max != 0 {
		p.Max = time.Duration(r.Max)
	}
	switch {
	case p.MaxAttempts < 0:
		bad(field, "max_attempts must not be negative (0 means no limit)")
	case r.Initial != 0 && r.Max != 0 && p.Initial > p.Max:
		bad(field, "initial must not be longer than max")
	case r.Max != 0:
		p.Initial = min(p.Initial, p.Max)
	default:
		p.Max = max(p.Initial, p.Max)
	}
	return p
}

// duration is written as Go writes it: 200ms, 15m.
type duration time.Duration

// UnmarshalYAML reads a duration; a bare number has no unit and is refused.
func (d *duration) UnmarshalYAML(node *yaml.Node) error {
	v, err := time.ParseDuration(node.Value)
	if err != nil || node.Kind != yaml.ScalarNode || v <= 0 {
		return errors.New("a duration is a positive number with a unit, such as 200ms or 15m")
	}
	*d = duration(v)
	return nil
}

// MarshalJSON writes the form that UnmarshalYAML reads.
func (d duration) MarshalJSON() ([]byte, error) { return json.Marshal(time.Duration(d).String()) }

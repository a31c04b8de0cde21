package http_test

import (
	"fmt"
	stdhttp "net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/skald-saga/skald/internal/http/api"
)

const (
	tripYAML = `
# a trip
name: trip
steps:
  - {name: flight, participant: airline, action: book, compensation: cancel}
`
	tripJSON = `{"steps": [{"name": "flight", "participant": "airline", "action": "book", "compensation": "cancel"}], "name": "trip"}`
)

const asYAML, asJSON = "application/yaml", "application/json"

// put puts a definition of a media type.
func (s *service) put(path, media, body string, status int) api.PutDefinition {
	s.t.Helper()
	return decode[api.PutDefinition](s.t, s.do("PUT", "/v1/definitions/"+path, body, "Content-Type", media), status)
}

func TestADefinitionIsPutInYAMLAndInJSON(t *testing.T) {
	t.Parallel()
	s := newService(t)
	first := s.put("trip", asYAML, tripYAML, stdhttp.StatusCreated)
	if !first.Created || *first.Version != 1 || *first.Deprecated {
		t.Errorf("the first: %+v", first)
	}
	if again := s.put("trip", asJSON, tripJSON, stdhttp.StatusOK); again.Created || *again.Version != 1 || again.Digest != first.Digest {
		t.Errorf("the same content in JSON: %+v", again)
	}
	a := s.do("PUT", "/v1/definitions/trip", strings.Replace(tripJSON, "book", "\\u0062ook-it", 1))
	if next := decode[api.PutDefinition](t, a, stdhttp.StatusCreated); *next.Version != 2 || a.header.Get("Location") != "/v1/definitions/trip/versions/2" {
		t.Errorf("other content: %+v at %s", next, a.header.Get("Location"))
	}
	started := decode[api.Saga](t, s.do("POST", "/v1/sagas", `{"definition": "trip", "input": {}}`), stdhttp.StatusAccepted)
	if started.DefinitionVersion != 2 {
		t.Errorf("a new saga has version %d", started.DefinitionVersion)
	}
	d := decode[api.Definition](t, s.do("GET", "/v1/definitions/trip", ""), stdhttp.StatusOK)
	if d.Version != 2 || d.Deprecated || !strings.Contains(string(d.Source), `"book-it"`) {
		t.Errorf("it reads as %+v, %s", d, d.Source)
	}
	old := decode[api.DefinitionVersion](t, s.do("GET", "/v1/definitions/trip/versions/1", ""), stdhttp.StatusOK)
	if old.Current || old.Digest != first.Digest || !strings.Contains(string(old.Source), `"book"`) {
		t.Errorf("version 1 reads as %+v, %s", old, old.Source)
	}
	versions := decode[api.DefinitionVersionList](t, s.do("GET", d.Links.Versions, ""), stdhttp.StatusOK)
	if len(versions.Items) != 2 || versions.Items[0].Version != 2 || !versions.Items[0].Current || versions.Items[0].Open.Running != 1 || versions.Items[1].Open.Running != 0 {
		t.Errorf("versions: %+v", versions.Items)
	}
}

func TestADryRunSaysAllThatIsWrongAndStoresNothing(t *testing.T) {
	t.Parallel()
	s := newService(t)
	for name, c := range map[string]struct {
		body, media string
		want        []string
	}{
		"YAML, the form":   {"name: trip\nsteps:\n- name: a\n  tries: 3\n  timeout: 5\n", asYAML, []string{"4 #/steps/0/tries", "5 #/steps/0/timeout"}},
		"YAML, the steps":  {"name: trip\nsteps:\n- name: a\n  participant: p\n- {name: a, participant: p, action: b, compensation: none, when: 1 +}\n", asYAML, []string{"3 #/steps/0/action", "3 #/steps/0/compensation", "5 #/steps/1/name", "5 #/steps/1/when"}},
		"YAML that is not": {"name: [", asYAML, []string{"1 #"}},
		"nothing":          {"# nothing\n", asYAML, []string{"0 #"}},
		"JSON":             {`{"name": "trip", "steps": [{"name": "a", "participant": "P", "action": "b", "compensation": "none", "odd/name": 1}]}`, asJSON, []string{"0 #/steps/0/odd~1name"}},
		"another's name":   {strings.Replace(tripYAML, "trip", "tour", 2), asYAML, []string{"0 #/name"}},
	} {
		for _, query := range []string{"?dry_run=true", ""} {
			p := decode[api.Problem](t, s.do("PUT", "/v1/definitions/trip"+query, c.body, "Content-Type", c.media), stdhttp.StatusUnprocessableEntity)
			var got []string
			for _, e := range *p.Errors {
				line := int32(0)
				if e.Line != nil {
					line = *e.Line
				}
				got = append(got, fmt.Sprint(line, " ", e.Pointer))
			}
			if diff := cmp.Diff(c.want, got); diff != "" || p.Code != api.ProblemCodeDefinitionInvalid {
				t.Errorf("%s%s: %s, -want +got\n%s", name, query, p.Code, diff)
			}
		}
	}
	if dry := s.put("trip?dry_run=true", asYAML, tripYAML, stdhttp.StatusOK); dry.Version != nil || dry.Created {
		t.Errorf("a dry run of what is right: %+v", dry)
	}
	decode[api.Problem](t, s.do("GET", "/v1/definitions/trip", ""), stdhttp.StatusNotFound)
}

func TestWhatIsNoDefinitionIsRefused(t *testing.T) {
	t.Parallel()
	s := newService(t)
	for name, c := range map[string]struct {
		method, path, body, media string
		status                    int
		code                      api.ProblemCode
	}{
		"another media type":    {"PUT", "trip", tripYAML, "text/plain", 415, api.ProblemCodeUnsupportedMediaType},
		"YAML elsewhere":        {"POST", "trip/deprecate", "a: b", asYAML, 415, api.ProblemCodeUnsupportedMediaType},
		"broken JSON":           {"PUT", "trip", "{", "", 400, api.ProblemCodeMalformedJson},
		"a JSON array":          {"PUT", "trip", "[]", "", 400, api.ProblemCodeBadRequest},
		"no body":               {"PUT", "trip", "", "", 400, api.ProblemCodeBadRequest},
		"too much":              {"PUT", "trip", strings.Repeat("#", 70_000), asYAML, 413, api.ProblemCodePayloadTooLarge},
		"a name that is none":   {"PUT", "Trip", tripJSON, "", 400, api.ProblemCodeBadRequest},
		"an unknown parameter":  {"PUT", "trip?dryrun=true", tripJSON, "", 400, api.ProblemCodeUnknownParameter},
		"a dry run of maybe":    {"PUT", "trip?dry_run=maybe", tripJSON, "", 400, api.ProblemCodeBadRequest},
		"an unknown name":       {"GET", "trip", "", "", 404, api.ProblemCodeNotFound},
		"versions of nothing":   {"GET", "trip/versions", "", "", 404, api.ProblemCodeNotFound},
		"an unknown version":    {"GET", "order/versions/7", "", "", 404, api.ProblemCodeNotFound},
		"a version that is 0":   {"GET", "order/versions/0", "", "", 400, api.ProblemCodeBadRequest},
		"deprecating nothing":   {"POST", "trip/deprecate", "", "", 404, api.ProblemCodeNotFound},
		"undeprecating nothing": {"POST", "trip/undeprecate", "", "", 404, api.ProblemCodeNotFound},
		"deleting":              {"DELETE", "order", "", "", 405, api.ProblemCodeMethodNotAllowed},
	} {
		if c.media == "" {
			c.media = asJSON
		}
		p := decode[api.Problem](t, s.do(c.method, "/v1/definitions/"+c.path, c.body, "Content-Type", c.media), c.status)
		if p.Code != c.code {
			t.Errorf("%s: %s, want %s", name, p.Code, c.code)
		}
	}
}

func TestADeprecatedDefinitionIsNotStarted(t *testing.T) {
	t.Parallel()
	s := newService(t)
	running := s.place()
	d := decode[api.Definition](t, s.do("POST", "/v1/definitions/order/deprecate", `{"reason": "closed"}`), stdhttp.StatusOK)
	if !d.Deprecated || d.DeprecatedAt == nil || *d.DeprecatedReason != "closed" {
		t.Errorf("it reads as %+v", d)
	}
	for path, body := range map[string]string{"/v1/orders": oneBook, "/v1/sagas": `{"definition": "order", "input": {}}`} {
		if p := decode[api.Problem](t, s.do("POST", path, body), stdhttp.StatusUnprocessableEntity); p.Code != api.ProblemCodeDefinitionDeprecated {
			t.Errorf("%s: %s", path, p.Code)
		}
	}
	s.confirm(running.Id)
	if d = decode[api.Definition](t, s.do("POST", "/v1/definitions/order/undeprecate", ""), stdhttp.StatusOK); d.Deprecated || d.DeprecatedReason != nil {
		t.Errorf("undeprecated it reads as %+v", d)
	}
	s.place()
}

func TestDefinitionsComeInPages(t *testing.T) {
	t.Parallel()
	s := newService(t)
	for i := range 3 {
		s.put(fmt.Sprintf("trip-%d", i), asJSON, strings.Replace(tripJSON, `"trip"`, fmt.Sprintf(`"trip-%d"`, i), 1), stdhttp.StatusCreated)
		s.put("trip-1", asJSON, strings.NewReplacer(`"trip"`, `"trip-1"`, "book", fmt.Sprintf("book-%d", i)).Replace(tripJSON), stdhttp.StatusCreated)
	}
	var names []string
	for path := "/v1/definitions?limit=2"; path != ""; {
		a := s.do("GET", path, "")
		page := decode[api.DefinitionList](t, a, stdhttp.StatusOK)
		for _, d := range page.Items {
			names = append(names, fmt.Sprint(d.Name, " ", d.Version))
		}
		path = a.next(t)
	}
	if diff := cmp.Diff([]string{"order 1", "trip-0 1", "trip-1 4", "trip-2 1"}, names); diff != "" {
		t.Errorf("definitions: -want +got\n%s", diff)
	}
	var versions []int32
	for path := "/v1/definitions/trip-1/versions?limit=2"; path != ""; {
		a := s.do("GET", path, "")
		page := decode[api.DefinitionVersionList](t, a, stdhttp.StatusOK)
		for _, v := range page.Items {
			versions = append(versions, v.Version)
		}
		path = a.next(t)
	}
	if diff := cmp.Diff([]int32{4, 3, 2, 1}, versions); diff != "" {
		t.Errorf("versions: -want +got\n%s", diff)
	}
}

// What does not fit is refused with its place, but not if the same start was
// accepted before the definition asked for so much (P8).
func TestAnInputIsHeldToTheSchemaOfItsDefinition(t *testing.T) {
	t.Parallel()
	s := newService(t)
	s.put("trip", asYAML, tripYAML, stdhttp.StatusCreated)
	const body = `{"definition": "trip", "input": {"nights": "two", "who": {"age": 7}}}`
	first := decode[api.Saga](t, s.do("POST", "/v1/sagas", body, "Idempotency-Key", "k"), stdhttp.StatusAccepted)
	s.put("trip", asYAML, tripYAML+`
input_schema:
  required: [to]
  properties:
    nights: {type: integer}
    who: {properties: {age: {minimum: 18}}}
`, stdhttp.StatusCreated)
	p := decode[api.Problem](t, s.do("POST", "/v1/sagas", body), stdhttp.StatusUnprocessableEntity)
	var got []string
	for _, e := range *p.Errors {
		got = append(got, e.Pointer+" "+e.Detail)
	}
	want := []string{"#/input/nights must be of type integer", "#/input/to is required", "#/input/who/age must be at least 18"}
	if diff := cmp.Diff(want, got); diff != "" || p.Code != api.ProblemCodeInputInvalid {
		t.Errorf("%s: -want +got\n%s", p.Code, diff)
	}
	if again := decode[api.Saga](t, s.do("POST", "/v1/sagas", body, "Idempotency-Key", "k"), stdhttp.StatusAccepted); again.Id != first.Id {
		t.Errorf("the repetition is another saga")
	}
	if old := decode[api.Saga](t, s.do("POST", "/v1/sagas", strings.Replace(body, `"trip"`, `"trip", "version": 1`, 1)), stdhttp.StatusAccepted); old.DefinitionVersion != 1 {
		t.Errorf("the version without a schema: %+v", old)
	}
	decode[api.Saga](t, s.do("POST", "/v1/sagas", `{"definition": "trip", "input": {"nights": 2, "to": "LIS"}}`), stdhttp.StatusAccepted)

	bad := decode[api.Problem](t, s.do("PUT", "/v1/definitions/trip", tripYAML+"input_schema:\n  properties:\n    nights: {type: number, minimum: no}\n", "Content-Type", asYAML), stdhttp.StatusUnprocessableEntity)
	if e := (*bad.Errors)[0]; e.Pointer != "#/input_schema/properties/nights/minimum" || e.Line == nil || *e.Line != 8 {
		t.Errorf("a schema that is none: %+v", e)
	}
}

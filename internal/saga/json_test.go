package saga

import (
	"bytes"
	"encoding/json"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// standard is what package encoding/json makes of it, slowly.
func standard(b []byte) (any, error) {
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.UseNumber()
	var v any
	if err := dec.Decode(&v); err != nil {
		return nil, err
	}
	return integers(v), nil
}

func integers(v any) any {
	switch v := v.(type) {
	case json.Number:
		if n, err := v.Int64(); err == nil {
			return n
		}
		f, _ := v.Float64()
		return f
	case []any:
		for i := range v {
			v[i] = integers(v[i])
		}
	case map[string]any:
		for k := range v {
			v[k] = integers(v[k])
		}
	}
	return v
}

func FuzzJSONIsReadAsTheStandardLibraryReadsIt(f *testing.F) {
	for _, seed := range []string{
		`{"a": 1, "b": [1.5, -2, 1e3, 12345678901234567890, 9223372036854775807], "c": {"d": null, "e": true, "f": false}}`,
		" [ ] ", "{}", `""`, `"\u00e9\n\"\\"`, "\"\xff\"", `{"a":1,"a":2}`, "1e999", "-0", `[[[]],{"":{}}]`, "nul", "{", `"a`, "", "1 2",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		got, err := decodeJSON(text)
		if (err == nil) != json.Valid(text) {
			t.Fatalf("%q: %v", text, err)
		}
		if err != nil {
			return
		}
		want, err := standard(text)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%q: -encoding/json +decodeJSON\n%s", text, diff)
		}
	})
}

package bus

import (
	"encoding/json"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go"
)

func FuzzHeadersAreReadAsTheStandardLibraryReadsThem(f *testing.F) {
	for _, seed := range []string{
		`{"ce-type":"skald.command.v1","ce-subject":"a","content-type":"application/json"}`, `{}`, `{"a":"b"}`, `{"a":"b",}`, `{"a":"b"}}`,
		`{"a":"b","a":"c"}`, `{"a": "b"}`, `{"a":"\u0062"}`, `{"a":1}`, `{"a":"b":"c"}`, `{"a":"b""c":"d"}`, `{"a":"\":\""}`, `null`, ``, `{"a":"é"}`, `["a":"b"}`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		got, err := parseHeader(text, 0)
		var want map[string]string
		wantErr := json.Unmarshal(text, &want)
		if (err == nil) != (wantErr == nil) {
			t.Fatalf("%q: %v, encoding/json says %v", text, err, wantErr)
		}
		if err != nil {
			return
		}
		values := nats.Header{}
		for k, v := range want {
			values[k] = []string{v}
		}
		if diff := cmp.Diff(values, got); diff != "" {
			t.Errorf("%q: -encoding/json +parseHeader\n%s", text, diff)
		}
	})
}

func TestOrdinaryHeadersAreReadWithoutADetour(t *testing.T) {
	t.Parallel()
	if h, ok := parsePlain([]byte(`{"ce-type":"skald.command.v1","ce-subject":"a"}`), 4); !ok || len(h) != 2 {
		t.Errorf("%v, %t", h, ok)
	}
}

package http

import (
	"bytes"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"unicode/utf8"
)

// What parseJSON takes is valid JSON with one meaning, and its canonical form
// is a fixed point; what it refuses, it refuses as the client's mistake.
func FuzzParseJSON(f *testing.F) {
	for _, seed := range []string{
		`{"a": [1, 2.50, -0, 1e400], "b": {"c": null, "d": "\u00e9\ud83d\ude00"}}`, `"\ud800"`, `"\\ud800"`, `{"a":1,"a":2}`, `[[[[]]]]`,
		"\"\x00\"", "\xff", `"\u0000"`, `{}{}`, ``, ` `, `nul`, `{"":{"":1}}`, `"\\u0000"`, `["\ud83d\u"]`, `"\udc00\ud800"`, `{"a":1}]`,
		strings.Repeat("[", 40) + strings.Repeat("]", 40),
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		value, err := parseJSON(body)
		if err != nil {
			var refusal *failure
			if !errors.As(err, &refusal) || problemTypes[refusal.code].status != 400 {
				t.Fatalf("%q is refused with %v, which is not a client's mistake", body, err)
			}
			return
		}
		if !json.Valid(body) || !utf8.Valid(body) {
			t.Fatalf("%q was taken", body)
		}
		canonical := canonicalJSON(value)
		if bytes.IndexByte(canonical, 0) >= 0 || bytes.Contains(canonical, []byte(`\u0000`)) && !bytes.Contains(canonical, []byte(`\\u0000`)) {
			t.Fatalf("%q has a NUL", body)
		}
		again, err := parseJSON(canonical)
		if err != nil {
			t.Fatalf("the canonical form %q of %q is refused: %v", canonical, body, err)
		}
		if twice := canonicalJSON(again); !bytes.Equal(canonical, twice) {
			t.Fatalf("%q has the canonical forms %q and %q", body, canonical, twice)
		}
	})
}

func TestPointersAreEscaped(t *testing.T) {
	for want, path := range map[string][]string{
		"#":                 nil,
		"#/items/0/sku":     {"items", "0", "sku"},
		"#/a~1b/m~0n":       {"a/b", "m~n"},
		"#/%22/%20/%C3%A4/": {`"`, " ", "ä", ""},
		"#/%3F":             {strings.Repeat("x", 65)},
		"#/a%23b":           {"a#b"},
	} {
		if got := pointer(path); got != want {
			t.Errorf("pointer of %q is %s, want %s", path, got, want)
		}
	}
}

// ISO 4217, not daily life, says how many decimals a currency has.
func TestMinorUnits(t *testing.T) {
	for code, want := range map[string]int{
		"EUR": 2, "USD": 2, "JPY": 0, "KWD": 3, "ISK": 0, "HUF": 2, "IQD": 3, "AFN": 2, "TWD": 2, "SLE": 2, "XCG": 2, "XAF": 0,
		"DEM": -1, "XXX": -1, "XTS": -1, "ZZZ": -1, "": -1, "eur": -1, "XAU": -1,
	} {
		got, known := minorUnits(code)
		if !known {
			got = -1
		}
		if got != want {
			t.Errorf("%s has %d decimals, want %d", code, got, want)
		}
	}
}

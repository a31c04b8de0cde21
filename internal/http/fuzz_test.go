package http_test

import (
	"encoding/json"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// anyJSON draws JSON, most of it well-formed, that looks like what the API
// expects more often than chance would have it.
func anyJSON(t *rapid.T, depth int) string {
	names := []string{"customer_id", "currency", "items", "sku", "quantity", "unit_price", "payment_method", "ship_to", "name", "country",
		"lines", "definition", "version", "input", "reason", "", "a/b", "\\u0000", "\\ud800", "Currency", "~"}
	scalars := []string{`null`, `true`, `0`, `-0`, `1`, `2.5`, `1e3`, `1e999`, `-1`, `99999999999999999999`, `"EUR"`, `"book"`, `"12.50"`, `"0"`,
		`"DE"`, `"order"`, `"pm_ok"`, `""`, `"\u0000"`, `"\ud800"`, `"` + strings.Repeat("x", 300) + `"`, `NaN`, `"` + "\xff" + `"`, `'`, `"\n"`}
	kinds := 4
	if depth > 3 {
		kinds = 2
	}
	switch rapid.IntRange(0, kinds-1).Draw(t, "kind") {
	case 0, 1:
		return rapid.SampledFrom(scalars).Draw(t, "scalar")
	case 2:
		var items []string
		for range rapid.IntRange(0, 3).Draw(t, "items") {
			items = append(items, anyJSON(t, depth+1))
		}
		return "[" + strings.Join(items, ",") + "]"
	}
	return anyObject(t, names, depth)
}

func anyObject(t *rapid.T, names []string, depth int) string {
	var members []string
	for range rapid.IntRange(0, 6).Draw(t, "members") {
		members = append(members, `"`+rapid.SampledFrom(names).Draw(t, "name")+`":`+anyJSON(t, depth+1))
	}
	return "{" + strings.Join(members, ",") + "}"
}

// mutated draws a good body with one value in it replaced, or with a few bytes
// changed.
func mutated(t *rapid.T, good string) string {
	if rapid.Bool().Draw(t, "bytes") {
		b := []byte(good)
		for range rapid.IntRange(1, 3).Draw(t, "changes") {
			b[rapid.IntRange(0, len(b)-1).Draw(t, "at")] = rapid.Byte().Draw(t, "byte")
		}
		return string(b)
	}
	var members map[string]json.RawMessage
	if err := json.Unmarshal([]byte(good), &members); err != nil {
		t.Fatal(err)
	}
	parts := []string{}
	changed := rapid.SampledFrom([]string{"customer_id", "currency", "items", "payment_method", "ship_to", "definition", "input"}).Draw(t, "changed")
	for name, value := range members {
		if name != changed {
			parts = append(parts, `"`+name+`":`+string(value))
		}
	}
	return "{" + strings.Join(append(parts, `"`+changed+`":`+anyJSON(t, 1)), ",") + "}"
}

// Whatever is sent, the answer is the request's fault or a saga, never an
// error of the server; and every answer is as openapi.yaml says.
func TestNoBodyBreaksTheServer(t *testing.T) {
	t.Parallel()
	s := newService(t)
	accepted := 0
	rapid.Check(t, func(rt *rapid.T) {
		path := rapid.SampledFrom([]string{"/v1/orders", "/v1/sagas"}).Draw(rt, "path")
		good := oneBook
		if path == "/v1/sagas" {
			good = `{"definition": "order", "input": {"items": [{"sku": "book", "quantity": 1, "unit_price": "1.00"}], "total": "1.00", "currency": "EUR", "payment_method": "pm_ok", "customer_id": "c"}}`
		}
		body := good
		switch rapid.IntRange(0, 7).Draw(rt, "body") {
		case 0: // as it is
		case 1:
			body = anyJSON(rt, 0)
		case 2, 3:
			path, body = "/v1/sagas", `{"definition": "order", "input": `+anyObject(rt, []string{"items", "total", "currency", "ship_to", "x", "y"}, 3)+`}`
		default:
			body = mutated(rt, good)
		}
		a := s.do("POST", path, body)
		switch {
		case a.status >= 500:
			rt.Fatalf("POST %s with %q gives %d: %s", path, body, a.status, a.body)
		case a.status < 300:
			accepted++
			if got := s.do("GET", a.header.Get("Location"), ""); got.status != 200 {
				rt.Fatalf("what POST %s made of %q is read with %d: %s", path, body, got.status, got.body)
			}
		}
	})
	var stored int
	if err := s.pool.QueryRow(t.Context(), `SELECT count(*) FROM saga`).Scan(&stored); err != nil {
		t.Fatal(err)
	}
	if stored != accepted || accepted == 0 {
		t.Errorf("%d sagas are stored, %d were accepted; want the same, and some", stored, accepted)
	}
}

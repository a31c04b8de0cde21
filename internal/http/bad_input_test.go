package http_test

import (
	"fmt"
	stdhttp "net/http"
	"slices"
	"strings"
	"testing"

	"github.com/skald-saga/skald/internal/http/api"
)

// secret stands for values of the caller; no answer may repeat it.
const secret = "s3cret-value"

// badInput is a request that must be refused, and what the refusal points at.
type badInput struct {
	name     string
	method   string
	path     string
	body     string
	headers  []string
	status   int
	code     api.ProblemCode
	pointers []string // all of them, in any order; nil: not compared
}

// order returns oneBook with one member replaced, added or (if value is empty)
// left out.
func orderWith(member, value string) string {
	members := map[string]string{
		"customer_id": `"` + secret + `"`, "currency": `"EUR"`, "payment_method": `"pm_ok"`,
		"items": `[{"sku": "book", "quantity": 2, "unit_price": "12.5"}]`,
	}
	members[member] = value
	var parts []string
	for name, v := range members {
		if v != "" {
			parts = append(parts, fmt.Sprintf("%q: %s", name, v))
		}
	}
	slices.Sort(parts)
	return "{" + strings.Join(parts, ", ") + "}"
}

// item returns an order with one item, one member of which is replaced.
func itemWith(member, value string) string {
	members := map[string]string{"sku": `"book"`, "quantity": `2`, "unit_price": `"12.5"`}
	members[member] = value
	var parts []string
	for name, v := range members {
		if v != "" {
			parts = append(parts, fmt.Sprintf("%q: %s", name, v))
		}
	}
	slices.Sort(parts)
	return orderWith("items", "[{"+strings.Join(parts, ", ")+"}]")
}

func badOrders() []badInput {
	const bad, invalid = api.ProblemCodeBadRequest, api.ProblemCodeInputInvalid
	body := func(name, body string, code api.ProblemCode, pointers ...string) badInput {
		status := stdhttp.StatusBadRequest
		if code == invalid {
			status = stdhttp.StatusUnprocessableEntity
		}
		return badInput{name: name, method: "POST", path: "/v1/orders", body: body, status: status, code: code, pointers: pointers}
	}
	return []badInput{
		body("nothing but braces", `{}`, bad, "#/customer_id", "#/currency", "#/items", "#/payment_method"),
		body("no body at all", "", bad, "#"),
		body("an array", `[]`, bad, "#"),
		body("null", `null`, bad, "#"),
		body("a string", `"`+secret+`"`, bad, "#"),
		body("an unknown member", orderWith("cupon", `"`+secret+`"`), bad, "#/cupon"),
		body("a member in another case", orderWith("Currency", `"EUR"`), bad, "#/Currency"),
		body("a server's member", orderWith("total", `"1.00"`), bad, "#/total"),
		body("an unknown member of an item", itemWith("a/b~c", `1`), bad, "#/items/0/a~1b~0c"),
		body("a very long unknown member", orderWith(strings.Repeat("x", 65), `1`), bad, "#/%3F"),
		body("a customer id of the wrong type", orderWith("customer_id", `42`), bad, "#/customer_id"),
		body("an empty customer id", orderWith("customer_id", `""`), bad, "#/customer_id"),
		body("a customer id with a space", orderWith("customer_id", `"a b"`), bad, "#/customer_id"),
		body("a customer id that is too long", orderWith("customer_id", `"`+strings.Repeat("x", 101)+`"`), bad, "#/customer_id"),
		body("a customer id that is null", orderWith("customer_id", `null`), bad, "#/customer_id"),
		body("no payment method", orderWith("payment_method", ""), bad, "#/payment_method"),
		body("a payment method that is an object", orderWith("payment_method", `{"card": "`+secret+`"}`), bad, "#/payment_method"),
		body("a payment method with quotes", orderWith("payment_method", `"\"; DROP TABLE orders"`), bad, "#/payment_method"),

		body("a currency in small letters", orderWith("currency", `"eur"`), bad, "#/currency"),
		body("a currency of four letters", orderWith("currency", `"EURO"`), bad, "#/currency"),
		body("a currency that never was", orderWith("currency", `"ZZZ"`), invalid, "#/currency"),
		body("a currency of the past", orderWith("currency", `"DEM"`), invalid, "#/currency"),
		body("the code for no currency", orderWith("currency", `"XXX"`), invalid, "#/currency"),
		body("the code for tests", orderWith("currency", `"XTS"`), invalid, "#/currency"),

		body("no items", orderWith("items", `[]`), bad, "#/items"),
		body("items that are an object", orderWith("items", `{}`), bad, "#/items"),
		body("101 items", orderWith("items", "["+strings.Repeat(`{"sku": "book", "quantity": 1, "unit_price": "1"},`, 100)+`{"sku": "book", "quantity": 1, "unit_price": "1"}]`), bad, "#/items"),
		body("an item that is null", orderWith("items", `[null]`), bad, "#/items/0"),
		body("an sku twice", orderWith("items", `[{"sku": "book", "quantity": 1, "unit_price": "1"}, {"sku": "lamp", "quantity": 1, "unit_price": "1"}, {"sku": "book", "quantity": 1, "unit_price": "1"}]`), invalid, "#/items/2/sku"),
		body("an sku with a slash", itemWith("sku", `"a/b"`), bad, "#/items/0/sku"),
		body("an sku of dots", itemWith("sku", `".."`), bad, "#/items/0/sku"),
		body("an sku that is too long", itemWith("sku", `"`+strings.Repeat("x", 65)+`"`), bad, "#/items/0/sku"),

		body("a quantity of nothing", itemWith("quantity", `0`), bad, "#/items/0/quantity"),
		body("a negative quantity", itemWith("quantity", `-1`), bad, "#/items/0/quantity"),
		body("a quantity of minus zero", itemWith("quantity", `-0`), bad, "#/items/0/quantity"),
		body("a fractional quantity", itemWith("quantity", `1.5`), bad, "#/items/0/quantity"),
		body("a quantity in quotes", itemWith("quantity", `"2"`), bad, "#/items/0/quantity"),
		body("a quantity with an exponent", itemWith("quantity", `1e3`), invalid, "#/items/0/quantity"),
		body("a whole quantity with a fraction", itemWith("quantity", `2.0`), invalid, "#/items/0/quantity"),
		body("an absurd quantity", itemWith("quantity", `1000001`), bad, "#/items/0/quantity"),
		body("a quantity beyond 64 bits", itemWith("quantity", `99999999999999999999`), bad, "#/items/0/quantity"),
		body("a quantity beyond all numbers", itemWith("quantity", `1e999`), bad, "#/items/0/quantity"),
		body("a quantity that is null", itemWith("quantity", `null`), bad, "#/items/0/quantity"),
		body("no quantity", itemWith("quantity", ""), bad, "#/items/0/quantity"),

		body("a price that is a number", itemWith("unit_price", `12.5`), bad, "#/items/0/unit_price"),
		body("a negative price", itemWith("unit_price", `"-1"`), bad, "#/items/0/unit_price"),
		body("a price with a plus", itemWith("unit_price", `"+1"`), bad, "#/items/0/unit_price"),
		body("a price with an exponent", itemWith("unit_price", `"1e2"`), bad, "#/items/0/unit_price"),
		body("a price with a comma", itemWith("unit_price", `"12,50"`), bad, "#/items/0/unit_price"),
		body("a price with leading zeros", itemWith("unit_price", `"012.50"`), bad, "#/items/0/unit_price"),
		body("a price without a fraction after the point", itemWith("unit_price", `"12."`), bad, "#/items/0/unit_price"),
		body("a price that begins with the point", itemWith("unit_price", `".5"`), bad, "#/items/0/unit_price"),
		body("a price with a space", itemWith("unit_price", `" 12.50"`), bad, "#/items/0/unit_price"),
		body("a price with a line break", itemWith("unit_price", `"12.50\n"`), bad, "#/items/0/unit_price"),
		body("a price in Arabic digits", itemWith("unit_price", `"١٢"`), bad, "#/items/0/unit_price"),
		body("not a number", itemWith("unit_price", `"NaN"`), bad, "#/items/0/unit_price"),
		body("an empty price", itemWith("unit_price", `""`), bad, "#/items/0/unit_price"),
		body("a price of sixteen digits", itemWith("unit_price", `"1000000000000000"`), bad, "#/items/0/unit_price"),
		body("half a cent", itemWith("unit_price", `"12.505"`), invalid, "#/items/0/unit_price"),
		body("a third decimal that is zero", itemWith("unit_price", `"12.500"`), invalid, "#/items/0/unit_price"),
		body("yen with decimals", strings.Replace(oneBook, "EUR", "JPY", 1), invalid, "#/items/0/unit_price"),
		body("an order that costs nothing", itemWith("unit_price", `"0.00"`), invalid, "#/items"),
		body("an order that costs too much", itemWith("unit_price", `"500000000000000"`), invalid, "#/items"),
		body("an order that costs far too much", orderWith("items", `[{"sku": "a", "quantity": 1000000, "unit_price": "999999999999999.99"}]`), invalid, "#/items"),
		body("two things wrong", orderWith("items", `[{"sku": "a", "quantity": 1e1, "unit_price": "1"}, {"sku": "b", "quantity": 1, "unit_price": "0.001"}]`), invalid, "#/items/0/quantity", "#/items/1/unit_price"),

		body("an address without a country", orderWith("ship_to", `{"name": "Ada"}`), bad, "#/ship_to/country"),
		body("a country in words", orderWith("ship_to", `{"name": "Ada", "country": "Germany"}`), bad, "#/ship_to/country"),
		body("an address without a name", orderWith("ship_to", `{"country": "DE"}`), bad, "#/ship_to/name"),
		body("a name of spaces", orderWith("ship_to", `{"name": "  ", "country": "DE"}`), bad, "#/ship_to/name"),
		body("a name with a line break", orderWith("ship_to", `{"name": "Ada\nLovelace", "country": "DE"}`), bad, "#/ship_to/name"),
		body("a name that is too long", orderWith("ship_to", `{"name": "`+strings.Repeat("x", 201)+`", "country": "DE"}`), bad, "#/ship_to/name"),
		body("six lines", orderWith("ship_to", `{"name": "Ada", "lines": ["1","2","3","4","5","6"], "country": "DE"}`), bad, "#/ship_to/lines"),
		body("an unknown part of an address", orderWith("ship_to", `{"name": "Ada", "country": "DE", "planet": "`+secret+`"}`), bad, "#/ship_to/planet"),
		body("an address that is null", orderWith("ship_to", `null`), bad, "#/ship_to"),
	}
}

func badBodies() []badInput {
	const malformed = api.ProblemCodeMalformedJson
	var all []badInput
	for _, path := range []string{"/v1/orders", "/v1/sagas"} {
		good := oneBook
		if path == "/v1/sagas" {
			good = `{"definition": "order", "input": {}}`
		}
		add := func(name, body string, status int, code api.ProblemCode, pointer string, headers ...string) {
			all = append(all, badInput{name: name + " at " + path, method: "POST", path: path, body: body, status: status, code: code, pointers: []string{pointer}, headers: headers})
		}
		add("half a body", good[:20], 400, malformed, "#")
		add("two bodies", good+good, 400, malformed, "#")
		add("something after the body", good+" "+secret, 400, malformed, "#")
		add("a comma too many", good[:len(good)-1]+",}", 400, malformed, "#")
		add("single quotes", `{'a': 1}`, 400, malformed, "#")
		add("not a number", `{"a": NaN}`, 400, malformed, "#")
		add("a leading zero", `{"a": 01}`, 400, malformed, "#")
		add("a byte order mark", "\ufeff"+good, 400, malformed, "#")
		add("white space only", "  \n", 400, malformed, "#")
		add("invalid UTF-8", `{"a": "`+"\xff"+`"}`, 400, malformed, "#")
		add("a surrogate in UTF-8", `{"a": "`+"\xed\xa0\x80"+`"}`, 400, malformed, "#")
		add("a NUL as an escape", `{"a": "`+secret+`\u0000"}`, 400, malformed, "#")
		add("a NUL in a name", `{"\u0000": 1}`, 400, malformed, "#")
		add("a NUL byte", "{\"a\": \"\x00\"}", 400, malformed, "#")
		add("half a surrogate pair", `{"a": "\ud800"}`, 400, malformed, "#")
		add("the other half", `{"a": "\udc00x"}`, 400, malformed, "#")
		add("half a pair before another escape", `{"a": "\ud800\u0041"}`, 400, malformed, "#")
		add("a member twice", `{"a": 1, "b": 2, "a": 3}`, 400, malformed, "#/a")
		add("a member twice, once with an escape", `{"a": {"bc": 1, "\u0062c": 3}}`, 400, malformed, "#/a/bc")
		add("a member twice in an array", `{"a": [{}, {"b": 1, "b": 1}]}`, 400, malformed, "#/a/1/b")
		add("deep arrays", strings.Repeat("[", 33)+strings.Repeat("]", 33), 400, malformed, "#")
		add("very deep arrays", strings.Repeat("[", 30000)+strings.Repeat("]", 30000), 400, malformed, "#")
		add("deep objects", strings.Repeat(`{"a":`, 33)+"1"+strings.Repeat("}", 33), 400, malformed, "#")
		add("a body that is too large", good[:len(good)-1]+strings.Repeat(" ", 64<<10)+"}", 413, api.ProblemCodePayloadTooLarge, "#")
		add("a form", "a=1", 415, api.ProblemCodeUnsupportedMediaType, "header:Content-Type", "Content-Type", "application/x-www-form-urlencoded")
		add("JSON said to be text", good, 415, api.ProblemCodeUnsupportedMediaType, "header:Content-Type", "Content-Type", "text/plain")
		add("no media type", good, 415, api.ProblemCodeUnsupportedMediaType, "header:Content-Type", "Content-Type", "")
		add("a media type that is none", good, 415, api.ProblemCodeUnsupportedMediaType, "header:Content-Type", "Content-Type", "json;;")
		add("Latin-1", good, 415, api.ProblemCodeUnsupportedMediaType, "header:Content-Type", "Content-Type", "application/json; charset=iso-8859-1")
		add("a compressed body", good, 415, api.ProblemCodeUnsupportedMediaType, "header:Content-Encoding", "Content-Encoding", "gzip")

		add("a key that is too long", good, 400, api.ProblemCodeBadRequest, "header:Idempotency-Key", "Idempotency-Key", strings.Repeat("k", 256))
		add("a key with a space", good, 400, api.ProblemCodeBadRequest, "header:Idempotency-Key", "Idempotency-Key", "a b")
		add("an empty key in quotes", good, 400, api.ProblemCodeBadRequest, "header:Idempotency-Key", "Idempotency-Key", `""`)
		add("a key with one quote", good, 400, api.ProblemCodeBadRequest, "header:Idempotency-Key", "Idempotency-Key", `"abc`)
		add("a key that is not ASCII", good, 400, api.ProblemCodeBadRequest, "header:Idempotency-Key", "Idempotency-Key", "schlüssel")
		add("two keys", good, 400, api.ProblemCodeBadRequest, "header:Idempotency-Key", "Idempotency-Key", "a", "Idempotency-Key", "b")
		add("a wait without a number", good, 400, api.ProblemCodeBadRequest, "header:Prefer", "Prefer", "wait="+secret)
		add("a Prefer header that is too long", good, 400, api.ProblemCodeBadRequest, "header:Prefer", "Prefer", strings.Repeat("x", 1001))
		all = append(all, badInput{name: "a query parameter at " + path, method: "POST", path: path + "?wait=5", body: good, status: 400, code: api.ProblemCodeUnknownParameter, pointers: []string{"query:wait"}})
	}
	return all
}

func badSagas() []badInput {
	body := func(name, body string, status int, code api.ProblemCode, pointers ...string) badInput {
		return badInput{name: name, method: "POST", path: "/v1/sagas", body: body, status: status, code: code, pointers: pointers}
	}
	const bad, unknown = api.ProblemCodeBadRequest, api.ProblemCodeUnknownDefinition
	return []badInput{
		body("a saga of nothing", `{}`, 400, bad, "#/definition", "#/input"),
		body("an unknown definition", `{"definition": "`+secret+`", "input": {}}`, 422, unknown, "#/definition"),
		body("an unknown version", `{"definition": "order", "version": 7, "input": {}}`, 422, unknown, "#/definition"),
		body("a version of zero", `{"definition": "order", "version": 0, "input": {}}`, 400, bad, "#/version"),
		body("a version that is too large", `{"definition": "order", "version": 2147483648, "input": {}}`, 400, bad, "#/version"),
		body("a version with an exponent", `{"definition": "order", "version": 1e0, "input": {}}`, 400, bad, "#/version"),
		body("a definition with a path", `{"definition": "../order", "input": {}}`, 400, bad, "#/definition"),
		body("an input that is an array", `{"definition": "order", "input": []}`, 400, bad, "#/input"),
		body("an input that is null", `{"definition": "order", "input": null}`, 400, bad, "#/input"),
		body("no input", `{"definition": "order"}`, 400, bad, "#/input"),
		body("a start time that is no time", `{"definition": "order", "input": {}, "start_at": "tomorrow"}`, 400, bad, "#/start_at"),
		body("a start time without an offset", `{"definition": "order", "input": {}, "start_at": "2026-12-24T18:00:00"}`, 400, bad, "#/start_at"),
		body("a start time on no day", `{"definition": "order", "input": {}, "start_at": "2026-02-30T18:00:00Z"}`, 400, bad, "#"),
		body("a start time of long ago", `{"definition": "order", "input": {}, "start_at": "2001-01-01T00:00:00Z"}`, 422, api.ProblemCodeInputInvalid, "#/start_at"),
		body("a start time that is too far", `{"definition": "order", "input": {}, "start_at": "9999-01-01T00:00:00Z"}`, 422, api.ProblemCodeInputInvalid, "#/start_at"),
		body("a start time that is a number", `{"definition": "order", "input": {}, "start_at": 1}`, 400, bad, "#/start_at"),
		body("a member that nobody knows", `{"definition": "order", "input": {}, "colour": {}}`, 400, bad, "#/colour"),
		body("a label that is a number", `{"definition": "order", "input": {}, "labels": {"team": 1}}`, 400, bad, "#/labels/team"),
		body("a key that is nothing", `{"definition": "order", "input": {}, "key": ""}`, 400, bad, "#/key"),
	}
}

func badTimers(id string) []badInput {
	const bad, invalid = api.ProblemCodeBadRequest, api.ProblemCodeInputInvalid
	patch := func(name, timer, body string, status int, code api.ProblemCode, pointers ...string) badInput {
		return badInput{name: name, method: "PATCH", path: "/v1/timers/" + timer, body: body, status: status, code: code, pointers: pointers}
	}
	return []badInput{
		patch("a timer without a time", id+".deadline", `{}`, 422, invalid, "#"),
		patch("a timer with two times", id+".deadline", `{"fire_now": true, "fire_at": "2026-12-24T18:00:00Z"}`, 422, invalid, "#"),
		patch("a timer moved too far", id+".deadline", `{"fire_at": "9999-12-24T18:00:00Z"}`, 422, invalid, "#/fire_at"),
		patch("a timer moved to no time", id+".deadline", `{"fire_at": "soon"}`, 400, bad, "#/fire_at"),
		patch("a timer with an unknown member", id+".deadline", `{"fire_now": true, "x": 1}`, 400, bad, "#/x"),
		patch("a timer with a short id", "deadline", `{"fire_now": true}`, 400, bad, "path:id"),
		patch("a timer of no kind", id+".alarm", `{"fire_now": true}`, 404, api.ProblemCodeNotFound),
		patch("a timer of a step of another saga", id+".backoff.nothing.action.1.1", `{"fire_now": true}`, 404, api.ProblemCodeNotFound),
		patch("a timer of no saga", strings.Repeat("-", 36)+".deadline", `{"fire_now": true}`, 404, api.ProblemCodeNotFound),
	}
}

func badReads(id string) []badInput {
	const bad, unknown = api.ProblemCodeBadRequest, api.ProblemCodeUnknownParameter
	get := func(path string, code api.ProblemCode, pointers ...string) badInput {
		return badInput{name: "GET " + path, method: "GET", path: path, status: 400, code: code, pointers: pointers}
	}
	all := []badInput{
		get("/v1/orders?limit=0", bad, "query:limit"),
		get("/v1/orders?limit=201", bad, "query:limit"),
		get("/v1/orders?limit=-1", bad, "query:limit"),
		get("/v1/orders?limit=abc", bad, "query:limit"),
		get("/v1/orders?limit=1.5", bad, "query:limit"),
		get("/v1/orders?limit=99999999999999999999", bad, "query:limit"),
		get("/v1/orders?limit=", bad, "query:limit"),
		get("/v1/orders?limit=1&limit=2", bad, "query:limit"),
		get("/v1/orders?status=done", bad, "query:status"),
		get("/v1/orders?status=", bad, "query:status"),
		get("/v1/orders?status=confirmed,,pending", bad, "query:status"),
		get("/v1/orders?status=running", bad, "query:status"),
		get("/v1/orders?status=pending&status=confirmed", bad, "query:status"),
		get("/v1/orders?customer_id=a%20b", bad, "query:customer_id"),
		get("/v1/orders?customer_id=a%00", bad, "query:customer_id"),
		get("/v1/orders?customer_id=%ff", bad, "query:customer_id"),
		get("/v1/orders?customer_id="+strings.Repeat("x", 101), bad, "query:customer_id"),
		get("/v1/orders?customer=c-42", unknown, "query:customer"),
		get("/v1/orders?Limit=3", unknown, "query:Limit"),
		get("/v1/orders?limit=3&%3Cscript%3E=1", unknown, "query:?"),
		get("/v1/orders?=3", unknown, "query:?"),
		get("/v1/orders?limit=%zz", bad, "query"),
		get("/v1/orders?limit=3;status=pending", bad, "query"),
		get("/v1/sagas?status=pending", bad, "query:status"),
		get("/v1/sagas?definition=Order", bad, "query:definition"),
		get("/v1/sagas?lock=", bad, "query:lock"),
		get("/v1/timers?kind=alarm", bad, "query:kind"),
		get("/v1/timers?fire_before=soon", bad, "query:fire_before"),
		get("/v1/timers?saga=x", bad, "query:saga"),
		get("/v1/timers?cursor=AAAA", bad, "query:cursor"),
		get("/v1/timers?step=a", unknown, "query:step"),
		get("/v1/sagas?lock="+strings.Repeat("x", 256), bad, "query:lock"),
		get("/v1/sagas?customer_id=c-42", unknown, "query:customer_id"),
		get("/v1/sagas/"+id+"/history?after=-1", bad, "query:after"),
		get("/v1/sagas/"+id+"/history?after=2147483648", bad, "query:after"),
		get("/v1/sagas/"+id+"/history?cursor=1", unknown, "query:cursor"),
		get("/v1/sagas/"+id+"?wait=5", unknown, "query:wait"),
		get("/v1/audit-log?saga=1", bad, "query:saga"),
		get("/v1/audit-log?actor=", bad, "query:actor"),
		get("/v1/audit-log?action=Cancel", bad, "query:action"),
		get("/v1/audit-log?from=yesterday", bad, "query:from"),
		get("/v1/audit-log?to=2026-13-01T00:00:00Z", bad, "query:to"),
		get("/v1/audit-log?until=2026-01-01", unknown, "query:until"),
		get("/livez?verbose", unknown, "query:verbose"),
		get("/problems?x=1", unknown, "query:x"),
	}
	for _, path := range []string{"/v1/orders/", "/v1/sagas/"} {
		for _, wrong := range []string{"1", "order", id + "0", strings.ReplaceAll(id, "-", ""), "{" + id + "}", "urn:uuid:" + id, id[:35] + "g", "%00", "..%2f" + id} {
			all = append(all, get(path+wrong, bad, "path:id"))
		}
		all = append(all, badInput{name: "cancel " + path, method: "POST", path: path + "x/cancel", body: `{}`, status: 400, code: bad, pointers: []string{"path:id"}})
	}
	return all
}

func badCancels(id string) []badInput {
	var all []badInput
	for _, path := range []string{"/v1/orders/" + id + "/cancel", "/v1/sagas/" + id + "/cancel"} {
		for _, c := range []badInput{
			{name: "a reason that is too long", body: `{"reason": "` + strings.Repeat("x", 501) + `"}`, status: 400, code: api.ProblemCodeBadRequest, pointers: []string{"#/reason"}},
			{name: "a reason that is a number", body: `{"reason": 7}`, status: 400, code: api.ProblemCodeBadRequest, pointers: []string{"#/reason"}},
			{name: "an unknown member", body: `{"resaon": "` + secret + `"}`, status: 400, code: api.ProblemCodeBadRequest, pointers: []string{"#/resaon"}},
			{name: "a NUL in the reason", body: `{"reason": "\u0000"}`, status: 400, code: api.ProblemCodeMalformedJson, pointers: []string{"#"}},
			{name: "half a body", body: `{`, status: 400, code: api.ProblemCodeMalformedJson, pointers: []string{"#"}},
			{name: "a text", body: `please`, headers: []string{"Content-Type", "text/plain"}, status: 415, code: api.ProblemCodeUnsupportedMediaType, pointers: []string{"header:Content-Type"}},
			{name: "a body that is too large", body: `{` + strings.Repeat(" ", 64<<10) + `}`, status: 413, code: api.ProblemCodePayloadTooLarge, pointers: []string{"#"}},
		} {
			c.method, c.path, c.name = "POST", path, c.name+" at "+path
			all = append(all, c)
		}
	}
	return all
}

// Whatever is wrong with a request, the answer says what to change, repeats
// nothing of it, and nothing is written.
func TestBadInputIsRefusedWithAPointerAndWritesNothing(t *testing.T) {
	t.Parallel()
	s := newService(t)
	o := s.place()
	before := s.rows()
	cases := slices.Concat(badOrders(), badBodies(), badSagas(), badTimers(o.Id.String()), badReads(o.Id.String()), badCancels(o.Id.String()), badVerbs(o.Id.String()), badBatches(), badReplies())
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			a := s.do(c.method, c.path, c.body, c.headers...)
			p := decode[api.Problem](t, a, c.status)
			if p.Code != c.code {
				t.Errorf("code is %s, want %s: %s", p.Code, c.code, a.body)
			}
			var got []string
			if p.Errors != nil {
				for _, e := range *p.Errors {
					got = append(got, e.Pointer)
					if e.Detail == "" || strings.Contains(e.Detail, "openapi.yaml describes") {
						t.Errorf("%s: the detail %q does not say what to change", e.Pointer, e.Detail)
					}
				}
			}
			want := slices.Sorted(slices.Values(c.pointers))
			if slices.Sort(got); !slices.Equal(got, want) {
				t.Errorf("pointers are %v, want %v: %s", got, want, a.body)
			}
			if strings.Contains(string(a.body), secret) {
				t.Errorf("the answer repeats the caller's value: %s", a.body)
			}
			if n := s.rows(); n != before {
				t.Errorf("%d rows were written", n-before)
			}
		})
	}
}

func TestOrdersAtTheLimitsAreAccepted(t *testing.T) {
	t.Parallel()
	s := newService(t)
	hundred := make([]string, 100)
	for i := range hundred {
		hundred[i] = fmt.Sprintf(`{"sku": "sku-%d", "quantity": 1, "unit_price": "0.01"}`, i)
	}
	for name, c := range map[string]struct{ body, total string }{
		"a hundred items":       {orderWith("items", "["+strings.Join(hundred, ",")+"]"), "1.00"},
		"the largest quantity":  {itemWith("quantity", `1000000`), "12500000.00"},
		"the largest total":     {orderWith("items", `[{"sku": "a", "quantity": 1, "unit_price": "999999999999999.99"}]`), "999999999999999.99"},
		"a cent":                {itemWith("unit_price", `"0.01"`), "0.02"},
		"no decimals":           {itemWith("unit_price", `"12"`), "24.00"},
		"yen":                   {strings.ReplaceAll(itemWith("unit_price", `"1200"`), "EUR", "JPY"), "2400"},
		"dinars":                {strings.ReplaceAll(itemWith("unit_price", `"1.234"`), "EUR", "KWD"), "2.468"},
		"a currency since 2025": {strings.ReplaceAll(oneBook, "EUR", "XCG"), "25.00"},
		"an address in Greece":  {orderWith("ship_to", `{"name": "Ἀδα \ud83d\ude00 李", "lines": ["<script>alert(1)</script>"], "country": "GR"}`), "25.00"},
		"64 KiB":                {oneBook[:len(oneBook)-1] + strings.Repeat(" ", 64<<10-len(oneBook)) + "}", "25.00"},
	} {
		o := decode[api.Order](t, s.do("POST", "/v1/orders", c.body, "Idempotency-Key", strings.ReplaceAll(name, " ", "-")+strings.Repeat("k", 255-len(name))), stdhttp.StatusAccepted)
		if o.Total != c.total {
			t.Errorf("%s: the total is %s, want %s", name, o.Total, c.total)
		}
	}
}

// What the server makes nothing of, it keeps as it came.
func TestFreeFormInputIsKeptExactly(t *testing.T) {
	t.Parallel()
	s := newService(t)
	for _, input := range []string{
		`{"n":12345678901234567890.123,"big":1e400,"small":-1E-999,"long":` + strings.Repeat("9", 5000) + `}`,
		`{"z":1,"a":{"z":[null,true,{}],"a":""}}`,
		`{"text":"Ἀ\ud83d\ude00\\\"\/\b"}`,
		`{"deep":` + strings.Repeat("[", 30) + strings.Repeat("]", 30) + `}`,
		`{}`,
	} {
		a := s.do("POST", "/v1/sagas", `{"definition": "order", "input": `+input+`}`)
		if a.status/100 != 2 {
			t.Errorf("%.60s: %d %s", input, a.status, a.body)
			continue
		}
		got := decode[api.Saga](t, s.do("GET", a.header.Get("Location"), ""), stdhttp.StatusOK).Input
		if string(got) != input {
			t.Errorf("input is\n%s, want\n%s", got, input)
		}
	}
}

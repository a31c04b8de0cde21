package saga

import (
	"encoding/json"
	"errors"
	"strconv"
	"strings"
	"unicode/utf8"
)

// decodeJSON decodes with whole numbers as integers: a quantity of 2 must not
// become 2.0, nor lose digits. Every command's payload is made of what this
// gives; package encoding/json takes three times as long for it, which was a
// twentieth of what a server does.
func decodeJSON(b []byte) (any, error) {
	if !json.Valid(b) {
		return nil, errors.New("not JSON")
	}
	r := jsonReader{b: b}
	return r.value(), nil
}

// jsonReader reads valid JSON, so nothing that it expects can be missing.
type jsonReader struct {
	b []byte
	i int
}

// next skips white space and returns the byte that follows.
func (r *jsonReader) next() byte {
	for {
		switch c := r.b[r.i]; c {
		case ' ', '\t', '\n', '\r':
			r.i++
		default:
			return c
		}
	}
}

func (r *jsonReader) value() any {
	switch r.next() {
	case '{':
		return r.object()
	case '[':
		return r.array()
	case '"':
		return r.text()
	case 't':
		r.i += len("true")
		return true
	case 'f':
		r.i += len("false")
		return false
	case 'n':
		r.i += len("null")
		return nil
	}
	return r.number()
}

func (r *jsonReader) object() any {
	m := map[string]any{}
	r.i++
	for r.next() != '}' {
		if r.b[r.i] == ',' {
			r.i++
			continue
		}
		name := r.text()
		r.next()
		r.i++ // the colon
		m[name] = r.value()
	}
	r.i++
	return m
}

func (r *jsonReader) array() any {
	a := []any{}
	r.i++
	for r.next() != ']' {
		if r.b[r.i] == ',' {
			r.i++
			continue
		}
		a = append(a, r.value())
	}
	r.i++
	return a
}

func (r *jsonReader) text() string {
	begin, plain := r.i, true
	for r.i++; r.b[r.i] != '"'; r.i++ {
		if r.b[r.i] == '\\' {
			plain = false
			r.i++
		}
	}
	r.i++
	if quoted := r.b[begin:r.i]; !plain || !utf8.Valid(quoted) {
		var s string
		_ = json.Unmarshal(quoted, &s) // it is valid
		return s
	}
	return string(r.b[begin+1 : r.i-1])
}

func (r *jsonReader) number() any {
	begin := r.i
	for r.i < len(r.b) && strings.IndexByte("+-.0123456789Ee", r.b[r.i]) >= 0 {
		r.i++
	}
	text := string(r.b[begin:r.i])
	if n, err := strconv.ParseInt(text, 10, 64); err == nil {
		return n
	}
	f, _ := strconv.ParseFloat(text, 64) // valid JSON: at worst infinite, which cannot be encoded again
	return f
}

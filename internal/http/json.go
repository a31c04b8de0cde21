package http

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/skald-saga/skald/internal/http/api"
)

// maxDepth is how deep arrays and objects may be nested.
const maxDepth = 32

// parseJSON reads one JSON value that has one meaning for everybody who will
// see it: UTF-8, nothing after it, no member twice in an object, no NUL (which
// Postgres cannot keep in text) and no half surrogate pair (which other
// languages cannot read). Numbers stay as they are written.
func parseJSON(body []byte) (any, error) {
	if !utf8.Valid(body) {
		return nil, at(api.ProblemCodeMalformedJson, "#", "must be UTF-8")
	}
	var whole json.RawMessage
	if err := json.Unmarshal(body, &whole); err != nil {
		detail := "is not one complete JSON value"
		var syntax *json.SyntaxError
		if errors.As(err, &syntax) {
			detail = fmt.Sprintf("is not JSON at byte %d", syntax.Offset)
		}
		return nil, at(api.ProblemCodeMalformedJson, "#", detail)
	}
	if err := checkEscapes(body); err != nil {
		return nil, err
	}
	p := parser{Decoder: json.NewDecoder(bytes.NewReader(body))}
	p.UseNumber()
	return p.value()
}

// checkEscapes looks at the \u escapes of valid JSON.
func checkEscapes(body []byte) error {
	for i := 0; i < len(body); i++ {
		if body[i] != '\\' {
			continue
		}
		i++
		if body[i] != 'u' {
			continue
		}
		unit := hex4(body[i+1:])
		i += 4
		switch {
		case unit == 0:
			return at(api.ProblemCodeMalformedJson, "#", fmt.Sprintf("has a NUL character at byte %d", i-4))
		case unit >= 0xD800 && unit < 0xDC00 && bytes.HasPrefix(body[i+1:], []byte(`\u`)) && hex4(body[i+3:])&0xFC00 == 0xDC00:
			i += 6
		case unit >= 0xD800 && unit < 0xE000:
			return at(api.ProblemCodeMalformedJson, "#", fmt.Sprintf("has half a surrogate pair at byte %d", i-4))
		}
	}
	return nil
}

// hex4 reads the four digits that valid JSON has after \u.
func hex4(b []byte) uint64 {
	n, err := strconv.ParseUint(string(b[:4]), 16, 16)
	if err != nil { // cannot be in valid JSON
		return 0
	}
	return n
}

// parser walks through valid JSON and knows where it is.
type parser struct {
	*json.Decoder
	path []string
}

func (p *parser) value() (any, error) {
	t, err := p.Token()
	if err != nil {
		return nil, at(api.ProblemCodeMalformedJson, pointer(p.path), "is not JSON")
	}
	delim, ok := t.(json.Delim)
	switch {
	case !ok:
		return t, nil
	case len(p.path) >= maxDepth:
		return nil, at(api.ProblemCodeMalformedJson, "#", fmt.Sprintf("is nested deeper than %d levels", maxDepth))
	case delim == '{':
		return p.object()
	}
	return p.array()
}

func (p *parser) object() (any, error) {
	members := map[string]any{}
	for p.More() {
		t, err := p.Token()
		name, ok := t.(string)
		if err != nil || !ok {
			return nil, at(api.ProblemCodeMalformedJson, pointer(p.path), "is not JSON")
		}
		p.path = append(p.path, name)
		if _, twice := members[name]; twice {
			return nil, at(api.ProblemCodeMalformedJson, pointer(p.path), "is given more than once")
		}
		if members[name], err = p.value(); err != nil {
			return nil, err
		}
		p.path = p.path[:len(p.path)-1]
	}
	_, err := p.Token()
	return members, err
}

func (p *parser) array() (any, error) {
	items := []any{}
	for p.More() {
		p.path = append(p.path, strconv.Itoa(len(items)))
		item, err := p.value()
		if err != nil {
			return nil, err
		}
		items = append(items, item)
		p.path = p.path[:len(p.path)-1]
	}
	_, err := p.Token()
	return items, err
}

// canonicalJSON is the same for all spellings of a value that differ only in
// white space, escapes or the order of members.
func canonicalJSON(value any) []byte {
	b, err := json.Marshal(value) // sorts members
	if err != nil {               // cannot be: it was just parsed
		return nil
	}
	return b
}

// pointer is a JSON Pointer as a URI fragment (RFC 6901). Names that the client
// made up and that are long or strange are not repeated.
func pointer(path []string) string {
	var b strings.Builder
	b.WriteByte('#')
	for _, name := range path {
		b.WriteByte('/')
		if len(name) > 64 {
			name = "?"
		}
		b.WriteString(url.PathEscape(strings.NewReplacer("~", "~0", "/", "~1").Replace(name)))
	}
	return b.String()
}

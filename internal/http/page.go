package http

import (
	"crypto/sha256"
	"encoding/base64"
	"maps"
	"net/url"
	"strconv"

	"github.com/google/uuid"

	"github.com/skald-saga/skald/internal/http/api"
)

const defaultLimit = 50

// page is the part of a list that is asked for.
type page struct {
	path   string
	filter url.Values // without limit and cursor
	limit  int
	before uuid.UUID // nil: from the newest
}

func newPage(path string, filter url.Values, limit *api.Limit, cursor *api.Cursor) (page, error) {
	p := page{path: path, filter: filter, limit: defaultLimit}
	if limit != nil {
		p.limit = int(*limit)
	}
	if cursor == nil {
		return p, nil
	}
	b, err := base64.RawURLEncoding.Strict().DecodeString(*cursor)
	if err != nil || len(b) != 24 {
		return page{}, at(api.ProblemCodeBadRequest, "query:cursor", "is not a cursor: use next_cursor of the page before")
	}
	p.before = uuid.UUID(b[:16])
	if p.cursor(p.before) != *cursor {
		return page{}, at(api.ProblemCodeCursorMismatch, "query:cursor", "belongs to a list with another filter")
	}
	return p, nil
}

// cursor is where the page after id begins: the id and a hash of the list that
// it belongs to.
func (p page) cursor(id uuid.UUID) string {
	list := sha256.Sum256([]byte(p.path + "?" + p.filter.Encode()))
	return base64.RawURLEncoding.EncodeToString(append(id[:], list[:8]...))
}

// next is the cursor of the page after the one that ends with last, and the
// Link header that goes with it.
func (p page) next(last uuid.UUID) (cursor, link *string) {
	c := p.cursor(last)
	q := url.Values{"cursor": {c}}
	maps.Copy(q, p.filter)
	return &c, nextLink(p.path, q, p.limit)
}

// nextLink is a Link header, RFC 8288.
func nextLink(path string, q url.Values, limit int) *string {
	q.Set("limit", strconv.Itoa(limit))
	link := "<" + path + "?" + q.Encode() + `>; rel="next"`
	return &link
}

package http

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"maps"
	"mime"
	stdhttp "net/http"
	"net/url"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/skald-saga/skald/internal/http/api"
	"github.com/skald-saga/skald/internal/saga"
)

// maxBody is the largest body that is read.
const maxBody = 64 << 10

// readRequest checks what openapi.yaml cannot say: query and headers without
// surprises, and a body that is JSON with one meaning only.
func (s *server) readRequest(next stdhttp.Handler) stdhttp.Handler {
	return stdhttp.HandlerFunc(func(w stdhttp.ResponseWriter, r *stdhttp.Request) {
		op := s.contract.operation(r)
		err := checkQuery(op, r.URL, callOf(r.Context()))
		if err == nil {
			err = checkHeaders(op, r.Header)
		}
		if err == nil && op.hasBody {
			err = s.readBody(w, r, op)
		}
		if err != nil {
			s.fail(w, r, err)
			return
		}
		next.ServeHTTP(w, r)
	})
}

func checkQuery(op operation, u *url.URL, c *call) error {
	values, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		return at(api.ProblemCodeBadRequest, "query", "is not correctly encoded")
	}
	for _, name := range slices.Sorted(maps.Keys(values)) {
		pointer := "query:" + shownName(name)
		switch v := values[name]; {
		case !op.query[name] && !op.opens(name):
			return at(api.ProblemCodeUnknownParameter, pointer, "is not known here")
		case len(v) > 1:
			return at(api.ProblemCodeBadRequest, pointer, "must be given once; several values are separated by commas")
		case !utf8.ValidString(v[0]) || strings.ContainsRune(v[0], 0):
			return at(api.ProblemCodeBadRequest, pointer, "must be UTF-8 without NUL characters")
		case op.query[name]:
		case v[0] == "" || utf8.RuneCountInString(v[0]) > saga.MaxAttributeValue:
			return at(api.ProblemCodeBadRequest, pointer, fmt.Sprintf("must have 1 to %d characters", saga.MaxAttributeValue))
		default:
			if c.open == nil {
				c.open = map[string]string{}
			}
			c.open[name] = v[0]
		}
	}
	if len(c.open) > maxOpen {
		return at(api.ProblemCodeBadRequest, "query", fmt.Sprintf("has more than %d labels and attributes", maxOpen))
	}
	return nil
}

// maxOpen is how many query parameters a request may have whose names are not
// fixed.
const maxOpen = 8

// opens reports whether a query parameter of the operation may have this name.
func (op operation) opens(name string) bool {
	return slices.ContainsFunc(op.open, func(prefix string) bool {
		return strings.HasPrefix(name, prefix) && name != prefix && shownName(name) == name
	})
}

// shownName is a name that the client made up, if it is short and plain enough
// to be repeated.
func shownName(name string) string {
	plain := strings.Trim(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-.") == ""
	if name == "" || len(name) > 64 || !plain {
		return "?"
	}
	return name
}

// checkHeaders makes one line of lists that came in several, which is what
// they mean, and refuses a second key.
func checkHeaders(op operation, h stdhttp.Header) error {
	for name, in := range op.in {
		lines := h.Values(name)
		if in != "header" || len(lines) < 2 {
			continue
		}
		if name == "Idempotency-Key" {
			return at(api.ProblemCodeBadRequest, "header:"+name, "must be given once")
		}
		h.Set(name, strings.Join(lines, ", "))
	}
	return nil
}

// readBody reads the body, checks it and puts it back for the next to read.
func (s *server) readBody(w stdhttp.ResponseWriter, r *stdhttp.Request, op operation) error {
	body, err := io.ReadAll(stdhttp.MaxBytesReader(w, r.Body, maxBody))
	var tooLarge *stdhttp.MaxBytesError
	switch {
	case errors.As(err, &tooLarge):
		return at(api.ProblemCodePayloadTooLarge, "#", "must have at most 65536 bytes")
	case err != nil:
		return at(api.ProblemCodeBadRequest, "#", "was not sent completely")
	}
	r.Body, r.ContentLength = io.NopCloser(bytes.NewReader(body)), int64(len(body))
	if len(body) == 0 {
		return nil // whether one is required says openapi.yaml
	}
	media, err := mediaType(r.Header, op)
	if err != nil {
		return err
	}
	if r.Header.Set("Content-Type", media); media != jsonMedia {
		return nil
	}
	value, err := parseJSON(body)
	if err != nil {
		return err
	}
	if r.Header.Get("Idempotency-Key") != "" {
		callOf(r.Context()).fingerprint = sha256.Sum256(canonicalJSON(value))
	}
	return nil
}

const (
	jsonMedia = "application/json"
	yamlMedia = "application/yaml" // RFC 9512
)

// mediaType is what the body is said to be, if that is read here.
func mediaType(h stdhttp.Header, op operation) (string, error) {
	media, params, err := mime.ParseMediaType(h.Get("Content-Type"))
	charset := strings.ToLower(params["charset"])
	if err != nil || !slices.Contains(op.media, media) || (charset != "" && charset != "utf-8") {
		return "", at(api.ProblemCodeUnsupportedMediaType, "header:Content-Type", "must be "+strings.Join(op.media, " or "))
	}
	if encoding := h.Get("Content-Encoding"); encoding != "" && !strings.EqualFold(encoding, "identity") {
		return "", at(api.ProblemCodeUnsupportedMediaType, "header:Content-Encoding", "must be left out: compressed bodies are not read")
	}
	return media, nil
}

package http

import (
	"context"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/skald-saga/skald/internal/coordinator"
	"github.com/skald-saga/skald/internal/http/api"
	"github.com/skald-saga/skald/internal/saga"
)

// maxWait is the longest that a request is held.
const maxWait = 60 * time.Second

// wait is the preference to be answered later, RFC 7240.
type wait struct {
	limit time.Duration
	asked bool
}

// applied is the Preference-Applied header; nil: none.
func (w wait) applied() *string {
	if !w.asked {
		return nil
	}
	s := "wait=" + strconv.Itoa(int(w.limit/time.Second))
	return &s
}

// parsePrefer reads a Prefer header. Unknown preferences are ignored, and of
// repeated ones all but the first, as the RFC has it.
func parsePrefer(header *string) (wait, error) {
	if header == nil {
		return wait{}, nil
	}
	for _, preference := range splitList(*header) {
		preference, _, _ = strings.Cut(preference, ";")
		name, value, _ := strings.Cut(preference, "=")
		if !strings.EqualFold(strings.TrimSpace(name), "wait") {
			continue
		}
		value = strings.TrimSpace(value)
		if len(value) >= 2 && value[0] == '"' && value[len(value)-1] == '"' {
			value = value[1 : len(value)-1]
		}
		if value == "" || len(value) > 9 || strings.Trim(value, "0123456789") != "" {
			return wait{}, at(api.ProblemCodeBadRequest, "header:Prefer", "wait must be a whole number of seconds")
		}
		seconds, _ := strconv.Atoi(value) // at most nine digits
		return wait{limit: min(time.Duration(seconds)*time.Second, maxWait), asked: true}, nil
	}
	return wait{}, nil
}

// splitList splits a header at its commas, except those in quotes.
func splitList(header string) []string {
	quoted := false
	parts := strings.FieldsFunc(header, func(c rune) bool {
		if c == '"' {
			quoted = !quoted
		}
		return c == ',' && !quoted
	})
	for i, p := range parts {
		parts[i] = strings.TrimSpace(p)
	}
	return slices.DeleteFunc(parts, func(p string) bool { return p == "" })
}

// await holds a request until done, for as long as w says. A server that stops
// and a client that has gone end it too: the answer is the saga as it stands.
func (s *server) await(ctx context.Context, seen coordinator.Saga, w wait, done coordinator.Done) (coordinator.Saga, error) {
	ctx, cancel := context.WithTimeout(ctx, w.limit)
	defer cancel()
	go func() {
		select {
		case <-s.Stopping:
			cancel()
		case <-ctx.Done():
		}
	}()
	return s.Sagas.Await(ctx, seen, done)
}

// etag is the entity tag of a saga's version.
func etag(version int64) string { return `"` + strconv.FormatInt(version, 10) + `"` }

// tags are the entity tags of an If-Match or If-None-Match header.
type tags struct {
	given bool
	any   bool
	list  []string
}

func parseTags(name string, header *string) (tags, error) {
	if header == nil {
		return tags{}, nil
	}
	t := tags{given: true, list: splitList(*header)}
	if len(t.list) == 1 && t.list[0] == "*" {
		return tags{given: true, any: true}, nil
	}
	for _, tag := range t.list {
		opaque := strings.TrimPrefix(tag, "W/")
		if len(opaque) < 2 || opaque[0] != '"' || strings.IndexByte(opaque[1:], '"') != len(opaque)-2 {
			t.list = nil
			break
		}
	}
	if len(t.list) == 0 {
		return tags{}, at(api.ProblemCodeBadRequest, "header:"+name, "must be * or a list of entity tags in double quotes")
	}
	return t, nil
}

// outdated reports whether there is something that a client with these tags
// waits for: another version than it knows, or the end.
func (t tags) outdated(version int64, status saga.Status) bool {
	return status.Ended() || (t.given && !t.unchanged(version))
}

// unchanged reports whether the client knows this version (If-None-Match: the
// weak comparison).
func (t tags) unchanged(version int64) bool {
	return t.any || slices.ContainsFunc(t.list, func(tag string) bool { return strings.TrimPrefix(tag, "W/") == etag(version) })
}

// expected is the version that If-Match asks for; 0: any. Weak tags never match.
func (s *server) expected(ctx context.Context, id uuid.UUID, header *string) (int64, error) {
	t, err := parseTags("If-Match", header)
	if err != nil || !t.given || t.any {
		return 0, err
	}
	if len(t.list) == 1 {
		opaque := strings.Trim(t.list[0], `"`)
		if version, err := strconv.ParseInt(opaque, 10, 64); err == nil && version > 0 && etag(version) == t.list[0] {
			return version, nil
		}
	}
	saga, err := s.Sagas.Get(ctx, id)
	if err != nil {
		return 0, err
	}
	if !slices.Contains(t.list, etag(saga.Version)) {
		return 0, coordinator.ErrPrecondition
	}
	return saga.Version, nil
}

package bus

import (
	"fmt"
	"strings"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/skald-saga/skald/internal/outbox"
	"github.com/skald-saga/skald/internal/wire"
)

// maxSubject keeps the protocol line below the 4 KiB at which a server breaks
// off the connection.
const maxSubject = 2048

// message makes the NATS message of a row: its headers, and what the row's own
// columns say.
func message(row outbox.Row) (*nats.Msg, error) {
	h, err := parseHeader(row.Headers, 4)
	if err != nil {
		return nil, fmt.Errorf("headers are not an object of strings: %w", err)
	}
	if !validSubject(row.Subject) {
		return nil, fmt.Errorf("subject %.100q: %w", row.Subject, nats.ErrBadSubject)
	}
	id := row.MsgID.String()
	for k, v := range h {
		if !validHeader(k, v[0]) {
			return nil, fmt.Errorf("header %.100q: %w", k, nats.ErrBadHeaderMsg)
		}
	}
	for _, own := range [...]struct{ name, value string }{
		{wire.HeaderSpecVersion, wire.SpecVersion}, {wire.HeaderID, id}, {wire.HeaderTime, row.CreatedAt.UTC().Format(time.RFC3339Nano)},
	} {
		if h[own.name] == nil { // else the writer knows better
			h[own.name] = []string{own.value}
		}
	}
	h[wire.HeaderMsgID] = []string{id}
	return &nats.Msg{Subject: row.Subject, Header: h, Data: row.Payload}, nil
}

// validSubject refuses what the client would send but no stream could take:
// wildcards, empty tokens, white space, and the server's own subjects.
func validSubject(s string) bool {
	if len(s) > maxSubject || strings.HasPrefix(s, "$JS.") || strings.HasPrefix(s, "$SYS.") {
		return false
	}
	previous := byte('.')
	for i := range len(s) {
		c := s[i]
		if c <= ' ' || c == 0x7f || c == '*' || c == '>' || (c == '.' && previous == '.') {
			return false
		}
		previous = c
	}
	return previous != '.'
}

// validHeader refuses what would break the header block apart, and JetStream's
// own headers: they could delete what a stream holds, or be refused for ever.
// The message id is ours to give.
func validHeader(k, v string) bool {
	if k == "" || (strings.HasPrefix(strings.ToLower(k), "nats-") && k != wire.HeaderMsgID) {
		return false
	}
	for i := range len(k) {
		if k[i] <= ' ' || k[i] >= 0x7f || k[i] == ':' {
			return false
		}
	}
	for i := range len(v) {
		if v[i] == '\r' || v[i] == '\n' || v[i] == 0 {
			return false
		}
	}
	return true
}

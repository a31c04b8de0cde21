package wire

import (
	"encoding/json"
	"regexp"
	"strings"
)

// Trace is a W3C trace context (https://www.w3.org/TR/trace-context/). Skald
// passes it on as it came: it makes no spans of its own.
type Trace struct{ Parent, State string }

// maxTracestate is what the specification asks everybody to pass on at least.
const maxTracestate = 512

var traceparent = regexp.MustCompile(`^([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-[0-9a-f]{2}(-[!-~]*)?$`)

// ParseTrace reads the two headers of a trace context. As the specification
// wants it, one that cannot be read is no error: there is then no trace.
func ParseTrace(parent, state string) Trace {
	m := traceparent.FindStringSubmatch(parent)
	switch {
	case m == nil || m[1] == "ff" || (m[1] == "00" && m[4] != "") || len(parent) > 256:
		return Trace{}
	case strings.Trim(m[2], "0") == "" || strings.Trim(m[3], "0") == "":
		return Trace{}
	case len(state) > maxTracestate || strings.ContainsFunc(state, func(c rune) bool { return c < ' ' || c > '~' }):
		state = ""
	}
	return Trace{Parent: parent, State: state}
}

// appendTo adds the headers of a message that is part of a trace.
func (t Trace) appendTo(b []byte) []byte {
	for _, h := range [...]struct{ name, value string }{{HeaderTraceparent, t.Parent}, {HeaderTracestate, t.State}} {
		if h.value == "" {
			continue
		}
		if quoted, err := json.Marshal(h.value); err == nil { // always: it is a string
			b = append(append(append(append(b, ',', '"'), h.name...), '"', ':'), quoted...)
		}
	}
	return b
}

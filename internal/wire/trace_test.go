package wire_test

import (
	"strings"
	"testing"

	"github.com/skald-saga/skald/internal/wire"
)

func TestATraceContextThatCannotBeReadIsNone(t *testing.T) {
	t.Parallel()
	const good = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	for name, c := range map[string]struct {
		parent, state string
		want          wire.Trace
	}{
		"both":                             {good, "a=1,b=2", wire.Trace{Parent: good, State: "a=1,b=2"}},
		"without a state":                  {good, "", wire.Trace{Parent: good}},
		"of a later version":               {"cc" + good[2:] + "-what-is-new", "", wire.Trace{Parent: "cc" + good[2:] + "-what-is-new"}},
		"nothing":                          {"", "a=1", wire.Trace{}},
		"version 0 with more":              {good + "-x", "", wire.Trace{}},
		"the version that cannot be":       {"ff" + good[2:], "", wire.Trace{}},
		"no trace id":                      {"00-00000000000000000000000000000000-b7ad6b7169203331-01", "", wire.Trace{}},
		"no parent id":                     {"00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01", "", wire.Trace{}},
		"capitals":                         {strings.ToUpper(good), "", wire.Trace{}},
		"too short":                        {good[:54], "", wire.Trace{}},
		"without end":                      {"cc" + good[2:] + "-" + strings.Repeat("x", 300), "", wire.Trace{}},
		"a state longer than is passed on": {good, strings.Repeat("x", 513), wire.Trace{Parent: good}},
		"a state of the longest":           {good, strings.Repeat("x", 512), wire.Trace{Parent: good, State: strings.Repeat("x", 512)}},
		"a state that no header can hold":  {good, "a=\n1", wire.Trace{Parent: good}},
		"a parent that no header can hold": {"cc" + good[2:] + "-\r\nx", "", wire.Trace{}},
	} {
		if got := wire.ParseTrace(c.parent, c.state); got != c.want {
			t.Errorf("%s: got %+v, want %+v", name, got, c.want)
		}
	}
}

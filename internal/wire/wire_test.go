package wire_test

import (
	"strings"
	"testing"

	"github.com/skald-saga/skald/internal/wire"
)

const sagaID = "019ab8b1-6a10-7c44-8a53-3f4a8d5f7e00"

func effect(phase wire.Phase, generation int) wire.EffectID {
	return wire.EffectID{Saga: sagaID, Step: "reserve-stock", Phase: phase, Generation: generation}
}

// P5: the effect id is what a participant goes by to do a thing once. Two
// texts for one effect, or one text for two effects, would break that.
func TestAnEffectHasOneText(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]wire.EffectID{
		sagaID + "/reserve-stock/action":         effect(wire.Action, 1),
		sagaID + "/reserve-stock/compensation":   effect(wire.Compensation, 1),
		sagaID + "/reserve-stock/action~2":       effect(wire.Action, 2),
		sagaID + "/reserve-stock/action~10":      effect(wire.Action, 10),
		sagaID + "/reserve-stock/action~1000000": effect(wire.Action, 1_000_000),
	} {
		got, err := wire.ParseEffectID(text)
		if err != nil || got != want {
			t.Errorf("ParseEffectID(%q) = %+v, %v, want %+v", text, got, err, want)
		}
		if want.String() != text {
			t.Errorf("%+v is written %q, want %q", want, want.String(), text)
		}
	}
}

func TestWhatIsNoEffectIDIsRefused(t *testing.T) {
	t.Parallel()
	for why, text := range map[string]string{
		"nothing":                             "",
		"no phase":                            sagaID + "/reserve-stock",
		"a part too many":                     sagaID + "/reserve-stock/action/2",
		"a saga that is not a UUID":           "order-1/reserve-stock/action",
		"a UUID in capitals":                  strings.ToUpper(sagaID) + "/reserve-stock/action",
		"a UUID in braces":                    "{" + sagaID + "}/reserve-stock/action",
		"a UUID as a URN":                     "urn:uuid:" + sagaID + "/reserve-stock/action",
		"a UUID without hyphens":              strings.ReplaceAll(sagaID, "-", "") + "/reserve-stock/action",
		"no step":                             sagaID + "//action",
		"a step in capitals":                  sagaID + "/Reserve/action",
		"a step with a subject's separator":   sagaID + "/a.b/action",
		"a step longer than a name":           sagaID + "/" + strings.Repeat("a", 65) + "/action",
		"another phase":                       sagaID + "/reserve-stock/undo",
		"a phase in capitals":                 sagaID + "/reserve-stock/Action",
		"no phase but a generation":           sagaID + "/reserve-stock/~2",
		"an empty generation":                 sagaID + "/reserve-stock/action~",
		"generation 1, which is not written":  sagaID + "/reserve-stock/action~1",
		"generation 0":                        sagaID + "/reserve-stock/action~0",
		"a negative generation":               sagaID + "/reserve-stock/action~-2",
		"a signed generation":                 sagaID + "/reserve-stock/action~+2",
		"a generation with a leading zero":    sagaID + "/reserve-stock/action~02",
		"a generation that is no number":      sagaID + "/reserve-stock/action~two",
		"two generations":                     sagaID + "/reserve-stock/action~2~3",
		"a generation past all reason":        sagaID + "/reserve-stock/action~1000001",
		"a generation larger than an integer": sagaID + "/reserve-stock/action~99999999999999999999",
		"white space":                         " " + sagaID + "/reserve-stock/action",
	} {
		if got, err := wire.ParseEffectID(text); err == nil {
			t.Errorf("%s: ParseEffectID(%q) = %+v, want an error", why, text, got)
		}
	}
}

func TestSubjectsAndStreamsFollowThePrefix(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ got, want string }{
		{wire.CommandSubject("skald", "inventory", "reserve"), "skald.cmd.inventory.reserve"},
		{wire.CommandSubject("acme.skald", "inventory", "reserve"), "acme.skald.cmd.inventory.reserve"},
		{wire.ReplySubject("skald", 0), "skald.reply.0"},
		{wire.ReplySubject("skald", 17), "skald.reply.17"},
		{wire.EventSubject("skald", "order", "completed"), "skald.evt.order.completed"},
		{wire.CommandsStream("skald"), "SKALD_COMMANDS"},
		{wire.RepliesStream("skald"), "SKALD_REPLIES"},
		{wire.EventsStream("skald"), "SKALD_EVENTS"},
		{wire.CommandsStream("acme.skald"), "ACME_SKALD_COMMANDS"}, // a stream's name has no dots
	} {
		if c.got != c.want {
			t.Errorf("got %q, want %q", c.got, c.want)
		}
	}
}

func FuzzParseEffectID(f *testing.F) {
	for _, seed := range []string{
		effect(wire.Action, 1).String(), effect(wire.Compensation, 7).String(), "", "//", sagaID + "/a/action~", sagaID + "/a/action~01",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		e, err := wire.ParseEffectID(text)
		if err == nil && e.String() != text {
			t.Errorf("%q was read as %+v, which is written %q", text, e, e)
		}
	})
}

package bus

import (
	"testing"

	"github.com/skald-saga/skald/internal/testkit"
	"github.com/skald-saga/skald/internal/wire"
)

func TestLagsSayWhatWaitsForAParticipant(t *testing.T) {
	t.Parallel()
	js := jetStream(t, connect(t, testkit.NATS(t).URL()))
	if err := topology.Ensure(t.Context(), js); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if _, err := js.Publish(t.Context(), "skald.cmd.payment.charge", []byte(`{}`)); err != nil {
			t.Fatal(err)
		}
	}
	payment, err := js.Consumer(t.Context(), wire.CommandsStream("skald"), "payment")
	if err != nil {
		t.Fatal(err)
	}
	m, err := payment.Next()
	if err != nil {
		t.Fatal(err)
	}
	lags, err := Lags(t.Context(), js, "skald", []string{"inventory", "nobody", "payment"})
	if err != nil || len(lags) != 2 {
		t.Fatalf("lags are %+v, %v", lags, err)
	}
	if l := lags["payment"]; l.Pending != 2 || l.InFlight != 1 || l.LastSeen.IsZero() {
		t.Errorf("payment: %+v", l)
	}
	if l := lags["inventory"]; l != (Lag{}) {
		t.Errorf("inventory, which has had nothing: %+v", l)
	}
	if err := m.DoubleAck(t.Context()); err != nil {
		t.Fatal(err)
	}
	if lags, err = Lags(t.Context(), js, "skald", []string{"payment"}); err != nil || lags["payment"].InFlight != 0 {
		t.Errorf("after it was acknowledged: %+v, %v", lags, err)
	}
}

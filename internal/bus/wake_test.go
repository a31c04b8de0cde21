package bus

import (
	"context"
	"testing"
	"time"

	"github.com/skald-saga/skald/internal/testkit"
)

// Wake-ups arrive under the prefix, many may become one, and none blocks.
func TestAWakeUpReachesTheRelaysOfItsPrefix(t *testing.T) {
	t.Parallel()
	server := testkit.NATS(t)
	nc, other := connect(t, server.URL()), connect(t, server.URL())
	woken, err := SubscribeWake(other, "skald")
	if err != nil {
		t.Fatal(err)
	}
	stranger, err := SubscribeWake(other, "another")
	if err != nil {
		t.Fatal(err)
	}
	if err := other.Flush(); err != nil {
		t.Fatal(err)
	}
	w := NewWaker(nc, "skald")
	for range 1000 { // before it runs: they wait as one
		w.Wake()
	}
	ctx, cancel := context.WithCancel(t.Context())
	stopped := make(chan error, 1)
	go func() { stopped <- w.Run(ctx) }()
	await := func() {
		t.Helper()
		select {
		case <-woken:
		case <-time.After(20 * time.Second):
			t.Fatal("no wake-up came")
		}
	}
	await()
	w.Wake()
	await()
	if len(stranger) != 0 {
		t.Error("a relay of another prefix was woken")
	}
	server.Halt()
	for range 10 { // nobody hears, nothing blocks
		w.Wake()
	}
	cancel()
	if err := <-stopped; err != nil {
		t.Error(err)
	}
}

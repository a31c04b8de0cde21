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
	woken, stranger, self := make(chan struct{}, 1), make(chan struct{}, 1), make(chan struct{}, 1)
	w := NewWaker(nc, "skald")
	for wake, listener := range map[chan struct{}]*Waker{woken: NewWaker(other, "skald"), stranger: NewWaker(other, "another"), self: w} {
		if err := listener.Listen(wake); err != nil {
			t.Fatal(err)
		}
		if err := listener.nc.Flush(); err != nil {
			t.Fatal(err)
		}
	}
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
	if err := nc.Publish("skald.wake.outbox", nil); err != nil { // as a writer that is not ours does
		t.Fatal(err)
	}
	await()
	w.Now()
	await()
	if err := nc.Flush(); err != nil { // what we would hear of ourselves has come
		t.Fatal(err)
	}
	if len(stranger) != 0 {
		t.Error("a relay of another prefix was woken")
	}
	select {
	case <-self: // by the writer that is not ours
	case <-time.After(20 * time.Second):
		t.Error("the waker hears nobody")
	}
	w.Now()
	if err := nc.Flush(); err != nil {
		t.Fatal(err)
	}
	if len(self) != 0 {
		t.Error("the waker listens to itself")
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

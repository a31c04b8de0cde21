package embedded_test

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/skald-saga/skald/internal/embedded"
)

func TestNATSKeepsItsStreamsUntilTheyAreWiped(t *testing.T) {
	temp := folder(t)
	t.Setenv("TMPDIR", temp)
	n, err := embedded.StartNATS(embedded.NATSConfig{})
	if err != nil {
		t.Fatal(err)
	}
	url := n.URL()
	store(t, url, "first")

	n.Halt()
	embedded.SweepStale() // takes nothing of an owner that lives
	if nc, err := nats.Connect(url); err == nil {
		nc.Close()
		t.Fatal("a halted server takes connections")
	}
	if err := n.Start(); err != nil {
		t.Fatal(err)
	}
	if n.URL() != url {
		t.Errorf("it came back at %s, want %s", n.URL(), url)
	}
	if got := stored(t, url); got != 1 {
		t.Errorf("%d messages after a halt, want 1", got)
	}

	n.Halt()
	if err := n.Wipe(); err != nil {
		t.Fatal(err)
	}
	if err := n.Start(); err != nil {
		t.Fatal(err)
	}
	if got := stored(t, url); got != -1 {
		t.Errorf("a stream with %d messages survived the wipe", got)
	}
	if err := n.Stop(); err != nil {
		t.Fatal(err)
	}
	empty(t, temp)
}

func TestNATSKeepsAFolderThatWasGiven(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "nats")
	for i := range 2 {
		n, err := embedded.StartNATS(embedded.NATSConfig{Dir: dir})
		if err != nil {
			t.Fatal(err)
		}
		store(t, n.URL(), "one more")
		if got := stored(t, n.URL()); got != i+1 {
			t.Errorf("%d messages in run %d", got, i+1)
		}
		if err := n.Stop(); err != nil {
			t.Fatal(err)
		}
		if _, err := os.Stat(dir); err != nil {
			t.Fatal(err)
		}
	}
}

func jetStream(t *testing.T, url string) (jetstream.JetStream, func()) {
	t.Helper()
	nc, err := nats.Connect(url)
	if err != nil {
		t.Fatal(err)
	}
	js, err := jetstream.New(nc)
	if err != nil {
		nc.Close()
		t.Fatal(err)
	}
	return js, nc.Close
}

func store(t *testing.T, url, text string) {
	t.Helper()
	js, done := jetStream(t, url)
	defer done()
	cfg := jetstream.StreamConfig{Name: "KEPT", Subjects: []string{"kept"}, Storage: jetstream.FileStorage}
	if _, err := js.CreateOrUpdateStream(t.Context(), cfg); err != nil {
		t.Fatal(err)
	}
	if _, err := js.Publish(t.Context(), "kept", []byte(text)); err != nil {
		t.Fatal(err)
	}
}

// stored is how many messages are there; -1: no stream.
func stored(t *testing.T, url string) int {
	t.Helper()
	js, done := jetStream(t, url)
	defer done()
	s, err := js.Stream(t.Context(), "KEPT")
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		return -1
	}
	if err != nil {
		t.Fatal(err)
	}
	return int(s.CachedInfo().State.Msgs)
}

package bus

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/skald-saga/skald/internal/outbox"
	"github.com/skald-saga/skald/internal/testkit"
)

func TestMain(m *testing.M) { testkit.Main(m) }

// connect opens a connection as the programs do.
func connect(t testing.TB, url string) *nats.Conn {
	t.Helper()
	nc, err := Connect(url, "test", testkit.Log(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	return nc
}

func jetStream(t testing.TB, nc *nats.Conn) jetstream.JetStream {
	t.Helper()
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	return js
}

// createStream makes a stream like Skald's own, changed by change.
func createStream(t testing.TB, js jetstream.JetStream, name, subject string, change func(*jetstream.StreamConfig)) {
	t.Helper()
	cfg := jetstream.StreamConfig{
		Name: name, Subjects: []string{subject}, Storage: jetstream.FileStorage,
		Retention: jetstream.WorkQueuePolicy, Discard: jetstream.DiscardNew, AllowAtomicPublish: true,
	}
	if change != nil {
		change(&cfg)
	}
	if _, err := js.CreateStream(t.Context(), cfg); err != nil {
		t.Fatal(err)
	}
}

// stored returns what a stream holds, oldest first.
func stored(t testing.TB, js jetstream.JetStream, stream string) []*jetstream.RawStreamMsg {
	t.Helper()
	s, err := js.Stream(t.Context(), stream)
	if err != nil {
		t.Fatal(err)
	}
	state := s.CachedInfo().State
	var all []*jetstream.RawStreamMsg
	for seq := state.FirstSeq; state.Msgs > 0 && seq <= state.LastSeq; seq++ {
		m, err := s.GetMsg(t.Context(), seq)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, m)
	}
	return all
}

func storedSubjects(t testing.TB, js jetstream.JetStream, stream string) []string {
	t.Helper()
	subjects := []string{}
	for _, m := range stored(t, js, stream) {
		subjects = append(subjects, m.Subject)
	}
	return subjects
}

// count is how many messages a stream holds; -1 if it cannot be asked.
func count(js jetstream.JetStream, stream string) int {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	s, err := js.Stream(ctx, stream)
	if err != nil {
		return -1
	}
	return int(s.CachedInfo().State.Msgs)
}

func awaitCount(t testing.TB, js jetstream.JetStream, stream string, want int) {
	t.Helper()
	testkit.Eventually(t, fmt.Sprintf("%d messages in %s", want, stream), 20*time.Second, func() (bool, string) {
		n := count(js, stream)
		return n == want, fmt.Sprint(n)
	})
}

func row(key, subject string) outbox.Row {
	return outbox.Row{Key: key, MsgID: uuid.New(), Subject: subject, Headers: []byte(`{}`), Payload: []byte(subject), CreatedAt: time.Now()}
}

func want[T comparable](t testing.TB, what string, got []T, want ...T) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("%s: got %v, want %v", what, got, want)
	}
}

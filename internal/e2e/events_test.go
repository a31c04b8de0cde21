package e2e

import (
	"context"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/skald-saga/skald/internal/wire"
)

// listen checks P9 from where a listener sits: the end of every saga, and no
// other, was published, and as one message.
func (s *system) listen() {
	s.t.Helper()
	rows, err := s.pool(s.skaldURL).Query(context.Background(), `SELECT id::text || ' ' || status FROM saga`)
	if err != nil {
		s.t.Fatal(err)
	}
	ends, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		s.t.Fatal(err)
	}
	heard := s.events()
	for _, end := range ends {
		if n := len(heard[end]); n != 1 {
			s.t.Errorf("P9: %s: told by %d messages, want 1", end, n)
		}
		delete(heard, end)
	}
	if len(heard) > 0 {
		s.t.Errorf("P9: events of what did not happen: %v", heard)
	}
}

// events returns the ids of the messages that tell of a saga's end, by saga
// and end.
func (s *system) events() map[string]map[string]bool {
	s.t.Helper()
	js, err := jetstream.New(s.connect())
	if err != nil {
		s.t.Fatal(err)
	}
	consumer, err := js.OrderedConsumer(s.t.Context(), wire.EventsStream("skald"), jetstream.OrderedConsumerConfig{})
	if err != nil {
		s.t.Fatal(err)
	}
	heard := map[string]map[string]bool{}
	for {
		batch, err := consumer.FetchNoWait(1000)
		if err != nil {
			s.t.Fatal(err)
		}
		n := 0
		for m := range batch.Messages() {
			n++
			h := m.Headers()
			end := h.Get(wire.HeaderSubject) + " " + strings.TrimPrefix(m.Subject(), "skald.evt.order.")
			if heard[end] == nil {
				heard[end] = map[string]bool{}
			}
			heard[end][h.Get(wire.HeaderMsgID)] = true
		}
		if batch.Error() != nil {
			s.t.Fatal(batch.Error())
		}
		if n == 0 {
			return heard
		}
	}
}

package bus

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/skald-saga/skald/internal/wire"
)

// Lag is what waits for a participant.
type Lag struct {
	Pending, InFlight int64
	LastSeen          time.Time // when it last took or acknowledged a command; zero: never
}

// Lags asks JetStream what waits for each participant. It leaves out those that
// have no consumer, and says what it knows beside an error.
func Lags(ctx context.Context, js jetstream.JetStream, prefix string, participants []string) (map[string]Lag, error) {
	lags := make(map[string]Lag, len(participants))
	for _, name := range participants {
		consumer, err := js.Consumer(ctx, wire.CommandsStream(prefix), name)
		switch {
		case errors.Is(err, jetstream.ErrConsumerNotFound):
			continue
		case err != nil:
			return lags, fmt.Errorf("ask for consumer %s: %w", name, err)
		}
		info := consumer.CachedInfo() // just fetched
		lag := Lag{Pending: int64(info.NumPending), InFlight: int64(info.NumAckPending)}
		for _, seen := range []*time.Time{info.Delivered.Last, info.AckFloor.Last} {
			if seen != nil && seen.After(lag.LastSeen) {
				lag.LastSeen = seen.UTC()
			}
		}
		lags[name] = lag
	}
	return lags, nil
}

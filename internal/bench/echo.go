package bench

import (
	"context"
	"fmt"

	"github.com/nats-io/nats.go"
	"golang.org/x/sync/errgroup"

	"github.com/skald-saga/skald/participant"
)

// echo runs the order saga's participants without anything behind them. They
// run in this process, so their cost is not counted as Skald's.
func (s *system) echo(ctx context.Context) (stop func(), err error) {
	nc, err := nats.Connect(s.NATS)
	if err != nil {
		return nil, fmt.Errorf("connect to NATS: %w", err)
	}
	ctx, cancel := context.WithCancel(ctx)
	g, ctx := errgroup.WithContext(ctx)
	for service, answers := range map[string]map[string]any{
		"inventory": {"reserve": map[string]string{"id": "r-1"}, "release": nil, "commit": nil},
		"payment":   {"charge": map[string]string{"charge_id": "c-1"}, "refund": nil},
		"shipping":  {"dispatch": map[string]string{"shipment_id": "s-1"}},
	} {
		p, newErr := participant.New(participant.Config{Service: service, NATS: nc})
		if newErr != nil {
			err = newErr
			break
		}
		for name, answer := range answers {
			p.Stateless(name, func(context.Context, participant.Command) (any, error) { return answer, nil })
		}
		g.Go(func() error { return p.Run(ctx) })
	}
	stop = func() {
		cancel()
		_ = g.Wait()
		nc.Close()
	}
	if err != nil {
		stop()
		return nil, err
	}
	return stop, nil
}

// Package bus is Skald's side of NATS JetStream: it creates the streams and
// consumers, publishes outbox rows and consumes replies. It decides nothing:
// what is published was decided in Postgres, what is received is handed on.
//
// NATS may forget everything it holds at any time. A [Keeper] then creates
// streams and consumers again; resending is the business of step timeouts.
package bus

import (
	"fmt"
	"log/slog"
	"time"

	"github.com/nats-io/nats.go"
)

// Connect opens a connection that never gives up: it is returned also while
// the server is away, and reconnects for ever. Nothing is buffered meanwhile:
// a publish reported as failed must not be delivered later.
func Connect(url, name string, log *slog.Logger, more ...nats.Option) (*nats.Conn, error) {
	options := append([]nats.Option{
		nats.Name(name),
		nats.RetryOnFailedConnect(true),
		nats.MaxReconnects(-1),
		nats.ReconnectWait(100 * time.Millisecond),
		nats.ReconnectJitter(100*time.Millisecond, 100*time.Millisecond),
		nats.ReconnectBufSize(-1),
		nats.IgnoreAuthErrorAbort(), // credentials may be mended while we wait
		nats.ConnectHandler(func(*nats.Conn) { log.Info("connected to NATS") }),
		nats.DisconnectErrHandler(func(_ *nats.Conn, err error) {
			if err != nil { // nil: we closed it
				log.Warn("disconnected from NATS", "err", err)
			}
		}),
		nats.ReconnectHandler(func(*nats.Conn) { log.Info("connected to NATS again") }),
		nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) { log.Warn("NATS reports an error", "err", err) }),
	}, more...)
	nc, err := nats.Connect(url, options...)
	if err != nil {
		return nil, fmt.Errorf("connect to NATS: %w", err)
	}
	return nc, nil
}

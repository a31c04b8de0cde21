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
	"net/url"
	"strings"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
)

// awayInterval is how often it is said that the server is away, in seconds.
const awayInterval = 30

// redacted is a list of servers without what is secret in their URLs.
func redacted(servers string) string {
	list := strings.Split(servers, ",")
	for i, server := range list {
		if u, err := url.Parse(strings.TrimSpace(server)); err == nil {
			list[i] = u.Redacted()
		}
	}
	return strings.Join(list, ",")
}

// Connect opens a connection that never gives up: it is returned also while
// the server is away, and reconnects for ever. Nothing is buffered meanwhile:
// a publish reported as failed must not be delivered later.
func Connect(servers, name string, log *slog.Logger, more ...nats.Option) (*nats.Conn, error) {
	var said atomic.Int64        // when it was last said that we wait, in Unix seconds; 0: not in this outage
	waiting := func(err error) { // ten times a second
		now := time.Now().Unix()
		if last := said.Load(); now-last >= awayInterval && said.CompareAndSwap(last, now) {
			log.Warn("waiting for NATS", "servers", redacted(servers), "err", err)
		}
	}
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
		nats.ReconnectErrHandler(func(_ *nats.Conn, err error) { waiting(err) }),
		nats.ReconnectHandler(func(*nats.Conn) {
			said.Store(0)
			log.Info("connected to NATS again")
		}),
		nats.ErrorHandler(func(nc *nats.Conn, _ *nats.Subscription, err error) {
			if !nc.IsConnected() { // it is refused: who we are, or our certificate
				waiting(err)
			} else {
				log.Warn("NATS reports an error", "err", err)
			}
		}),
	}, more...)
	nc, err := nats.Connect(servers, options...)
	if err != nil {
		return nil, fmt.Errorf("connect to NATS: %w", err)
	}
	return nc, nil
}

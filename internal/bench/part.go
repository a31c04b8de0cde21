package bench

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/nats-io/nats.go"
	"golang.org/x/sync/errgroup"

	"github.com/skald-saga/skald/examples/order/shop"
	"github.com/skald-saga/skald/internal/embedded"
	"github.com/skald-saga/skald/participant"
)

// Job is what a part of the bench does in a process of its own, so that its
// processor time can be told apart.
type Job struct {
	Kind     string // nats, echo or shop
	Dir      string // of nats
	NATS     string // URL, of the others
	Prefix   string
	Services []string // of echo: which participants
	Database string   // of shop
}

// started is what a part writes when it is ready.
type started struct {
	Ready bool
	URL   string // of nats
	Sync  string // of nats: when it puts on disk what it has acknowledged
}

// Part is what `server bench --part` runs: one job, read from in, until in
// ends or ctx is cancelled.
func Part(ctx context.Context, in io.Reader, out io.Writer) error {
	var job Job
	decoder := json.NewDecoder(in)
	if err := decoder.Decode(&job); err != nil {
		return fmt.Errorf("read job: %w", err)
	}
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	go func() {
		_, _ = io.Copy(io.Discard, in) // it ends with whoever started us
		stop()
	}()
	ready := func(s started) {
		s.Ready = true
		_ = json.NewEncoder(out).Encode(s)
	}
	switch job.Kind {
	case "nats":
		return runNATS(ctx, job, ready)
	case "echo":
		return runEcho(ctx, job, ready)
	case "shop":
		return runShop(ctx, job, ready)
	}
	return fmt.Errorf("unknown part %q", job.Kind)
}

func runNATS(ctx context.Context, job Job, ready func(started)) error {
	n, err := embedded.StartNATS(embedded.NATSConfig{Dir: job.Dir})
	if err != nil {
		return err
	}
	ready(started{URL: n.URL(), Sync: n.Sync()})
	<-ctx.Done()
	return n.Stop()
}

func runShop(ctx context.Context, job Job, ready func(started)) error {
	cfg, err := pgxpool.ParseConfig(job.Database)
	if err != nil {
		return errors.New("not a database URL")
	}
	cfg.MaxConns = 16 // as the example has it
	pool, err := pgxpool.NewWithConfig(ctx, cfg)
	if err != nil {
		return err
	}
	defer pool.Close()
	if err := shop.Install(ctx, pool); err != nil {
		return err
	}
	const stock = `INSERT INTO inventory.stock (sku, on_hand) SELECT 'bench-' || lpad(n::text, 4, '0'), 1000000000 FROM generate_series(0, $1) n`
	if _, err := pool.Exec(ctx, stock, skus-1); err != nil {
		return err
	}
	nc, err := connect(job.NATS)
	if err != nil {
		return err
	}
	defer nc.Close()
	ready(started{})
	return shop.Run(ctx, shop.Config{Pool: pool, NATS: nc, Prefix: job.Prefix})
}

func connect(url string) (*nats.Conn, error) {
	nc, err := nats.Connect(url, nats.ReconnectBufSize(-1), nats.MaxReconnects(-1))
	if err != nil {
		return nil, fmt.Errorf("connect to NATS: %w", err)
	}
	return nc, nil
}

// Articles that make the participants which only answer do something else. A
// payload that names one is told by its bytes: nothing is decoded.
const (
	refusedSKU = "refuse-at-the-third-step"
	waitingSKU = "wait-for-ever"
)

// The participants of the order saga, and the one of the sagas of [scale].
var orderServices = []string{"inventory", "payment", "shipping"}

const scaled = "bench"

// runEcho runs participants without anything behind them.
func runEcho(ctx context.Context, job Job, ready func(started)) error {
	nc, err := connect(job.NATS)
	if err != nil {
		return err
	}
	defer nc.Close()
	g, ctx := errgroup.WithContext(ctx)
	all := map[string]map[string]func(participant.Command) (any, error){
		"inventory": {"reserve": reserve, "release": answer(nil), "commit": commit},
		"payment":   {"charge": answer(map[string]string{"charge_id": "c-1"}), "refund": answer(nil)},
		"shipping":  {"dispatch": answer(map[string]string{"shipment_id": "s-1"})},
		scaled:      {"do": answer(nil), "undo": answer(nil)},
	}
	for _, service := range job.Services {
		p, err := participant.New(participant.Config{Service: service, NATS: nc, Prefix: job.Prefix})
		if err != nil {
			return err
		}
		for name, do := range all[service] {
			p.Stateless(name, func(_ context.Context, c participant.Command) (any, error) { return do(c) })
		}
		g.Go(func() error { return p.Run(ctx) })
	}
	ready(started{})
	return g.Wait()
}

func answer(with any) func(participant.Command) (any, error) {
	return func(participant.Command) (any, error) { return with, nil }
}

func reserve(c participant.Command) (any, error) {
	switch {
	case bytes.Contains(c.Payload, []byte(waitingSKU)):
		return nil, participant.RetryAfter(24*time.Hour, errors.New("not today"))
	case bytes.Contains(c.Payload, []byte(refusedSKU)):
		return map[string]string{"id": refusedSKU}, nil
	}
	return map[string]string{"id": "r-1"}, nil
}

func commit(c participant.Command) (any, error) {
	if bytes.Contains(c.Payload, []byte(refusedSKU)) {
		return nil, participant.Refuse("refused", "the bench wants it so")
	}
	return nil, nil
}

// Package shop is the participants of the order saga, inventory, payment and
// shipping, and of the transfer saga, bank, on tables of their own in one
// Postgres database.
//
// It shows how a participant is written. Shipping, bank and inventory (in bulk)
// have their effects in the database: the SDK's inbox makes them happen exactly once.
// Payment's effects are at a gateway outside (a simulated one, see
// [PaymentMethods]), which is given the effect id as its idempotency key.
package shop

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"log/slog"
	"sync"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/nats-io/nats.go"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/skald-saga/skald/participant"
)

//go:embed schema.sql
var schema string

// Install makes the shop's tables and the inbox, puts goods on the shelf and
// money into accounts.
// What is already there stays as it is.
func Install(ctx context.Context, pool *pgxpool.Pool) error {
	if err := participant.Install(ctx, pool); err != nil {
		return err
	}
	err := pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error {
		// IF NOT EXISTS does not keep two installers apart.
		if _, err := tx.Exec(ctx, `SELECT pg_advisory_xact_lock(hashtext('skald shop'))`); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, schema)
		return err
	})
	if err != nil {
		return fmt.Errorf("install shop: %w", err)
	}
	return nil
}

// Installed reports whether all that [Install] makes is there.
func Installed(ctx context.Context, pool *pgxpool.Pool) (bool, error) {
	const q = `
		SELECT bool_and(to_regclass(name) IS NOT NULL) FROM unnest(ARRAY['skald_inbox',
			'inventory.stock', 'inventory.reservations', 'inventory.reservation_items',
			'payment.charges', 'payment.attempts', 'shipping.shipments', 'bank.accounts', 'bank.entries']) AS name`
	var all bool
	if err := pool.QueryRow(ctx, q).Scan(&all); err != nil {
		return false, fmt.Errorf("look for the shop's tables: %w", err)
	}
	return all, nil
}

// Config is what the participants need.
type Config struct {
	Pool       *pgxpool.Pool         // to a database that Install has prepared
	NATS       *nats.Conn            // to the server that Skald uses
	Prefix     string                // of all subjects; default "skald"
	Log        *slog.Logger          // default: none
	Registerer prometheus.Registerer // nil: no metrics
}

// Run runs the participants until ctx is cancelled and all have stopped. They
// wait for NATS and the database while those are away.
func Run(ctx context.Context, cfg Config) error {
	services := []func(Config) (*participant.Participant, error){newInventory, newPayment, newShipping, newBank}
	participants := make([]*participant.Participant, 0, len(services))
	for _, build := range services {
		p, err := build(cfg)
		if err != nil {
			return fmt.Errorf("prepare participants: %w", err)
		}
		participants = append(participants, p)
	}
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	errs := make([]error, len(participants))
	var running sync.WaitGroup
	for i, p := range participants {
		running.Go(func() {
			if errs[i] = p.Run(ctx); errs[i] != nil {
				stop() // all or none
			}
		})
	}
	running.Wait()
	return errors.Join(errs...)
}

func (c Config) participant(service string, concurrency int) (*participant.Participant, error) {
	return participant.New(participant.Config{
		Service: service, NATS: c.NATS, Pool: c.Pool, Prefix: c.Prefix, Log: c.Log, Registerer: c.Registerer, Concurrency: concurrency,
	})
}

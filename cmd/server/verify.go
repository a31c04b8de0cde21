package main

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/skald-saga/skald/internal/coordinator"
	"github.com/skald-saga/skald/internal/program"
)

type verifyCmd struct{ databaseFlags }

// Run folds every history. It may run while sagas do.
func (v verifyCmd) Run(ctx context.Context, s program.Streams) error {
	return v.use(ctx, func(_ string, pool *pgxpool.Pool) error {
		if err := checkSchema(ctx, pool); err != nil {
			return err
		}
		flaws := 0
		n, err := coordinator.New(coordinator.Config{Pool: pool}).Verify(ctx, func(f coordinator.Flaw) {
			flaws++
			_, _ = fmt.Fprintf(s.Out, "%s: %s\n", f.SagaID, f.Reason)
		})
		if err != nil {
			return err
		}
		_, _ = fmt.Fprintf(s.Out, "%d sagas, %d flaws\n", n, flaws)
		if flaws > 0 {
			return fmt.Errorf("%d of %d sagas are not what their histories say", flaws, n)
		}
		return nil
	})
}

package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"text/tabwriter"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/skald-saga/skald/internal/outbox"
	"github.com/skald-saga/skald/internal/program"
	"github.com/skald-saga/skald/migrations"
)

// open connects to the database, for one command.
func open(ctx context.Context, d program.DatabaseFlags) (*pgxpool.Pool, error) {
	url, err := d.URL()
	if err != nil {
		return nil, err
	}
	cfg, err := program.PoolConfig(url, "skald-relay", 1)
	if err != nil {
		return nil, err
	}
	pool, err := pgxpool.NewWithConfig(ctx, cfg)
	if err != nil {
		return nil, fmt.Errorf("open database: %w", err)
	}
	return pool, nil
}

// withOutbox runs do on a database that has an outbox.
func withOutbox(ctx context.Context, d program.DatabaseFlags, do func(*pgxpool.Pool) error) error {
	pool, err := open(ctx, d)
	if err != nil {
		return err
	}
	defer pool.Close()
	err = outbox.Check(ctx, pool)
	if errors.Is(err, outbox.ErrRestored) { // it can be looked at, and mended
		return do(pool)
	}
	if errors.Is(err, outbox.ErrNoOutbox) {
		return program.UsageError{Err: fmt.Errorf("%w; `relay install` makes what is missing", err)}
	}
	if err != nil {
		return err
	}
	return do(pool)
}

// installCmd is `relay install`.
type installCmd struct {
	program.DatabaseFlags
	Lanes int  `help:"Into how many lanes keys are spread: no more relays can be at work at a time. 0: 4, or as many as there are. Of an outbox that is there already only if all was published." default:"0"`
	Drain bool `help:"Make only the table that relay drain needs, for an outbox of another make."`
}

// newLanes are the lanes of a new outbox.
const newLanes = 4

// Run makes the tables of the outbox, those that are not there yet.
func (c *installCmd) Run(ctx context.Context, out program.Streams) error {
	if c.Lanes < 0 || c.Lanes > 64 {
		return program.Usagef("--lanes: must be from 1 to 64, or 0 for the default")
	}
	pool, err := open(ctx, c.DatabaseFlags)
	if err != nil {
		return err
	}
	defer pool.Close()
	if c.Drain {
		return installDrain(ctx, pool, out)
	}
	answer := "the outbox was there already"
	err = pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error {
		// One at a time; the lock ends with the transaction.
		if _, err := tx.Exec(ctx, `SELECT pg_advisory_xact_lock(hashtext('skald relay install'))`); err != nil {
			return err
		}
		made, isNew, err := install(ctx, tx)
		if err != nil {
			return err
		}
		var lanes int
		if err := tx.QueryRow(ctx, `SELECT count(*) FROM outbox_lane`).Scan(&lanes); err != nil {
			return err
		}
		want := c.Lanes
		switch {
		case want > 0:
		case isNew:
			want = newLanes
		default:
			want = lanes
		}
		if want != lanes {
			if _, err := tx.Exec(ctx, `SELECT outbox_set_lanes($1)`, want); err != nil {
				return fmt.Errorf("give it %d lanes instead of %d: %w", want, lanes, err)
			}
		}
		if made > 0 || want != lanes {
			answer = "the outbox is installed"
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("install the outbox: %w", err)
	}
	_, err = fmt.Fprintln(out.Out, answer)
	return err
}

// install applies the outbox's own migrations, those that were not.
func install(ctx context.Context, tx pgx.Tx) (made int, isNew bool, err error) {
	for _, step := range []struct{ table, file string }{
		{"outbox", "000001_create_outbox.up.sql"},
		{"outbox_tick", "000004_keep_outbox.up.sql"},
		{"outbox_relay", "000006_lease_lanes.up.sql"},
	} {
		var there bool
		if err := tx.QueryRow(ctx, `SELECT to_regclass($1) IS NOT NULL`, step.table).Scan(&there); err != nil {
			return made, isNew, err
		}
		if there {
			continue
		}
		sql, err := migrations.Files.ReadFile(step.file)
		if err != nil {
			return made, isNew, err
		}
		if _, err := tx.Exec(ctx, string(sql)); err != nil {
			return made, isNew, err
		}
		made, isNew = made+1, isNew || step.table == "outbox"
	}
	return made, isNew, nil
}

// statusCmd is `relay status`.
type statusCmd struct {
	program.DatabaseFlags
	JSON bool `name:"json" help:"Answer with JSON."`
}

// Run says how the outbox is.
func (c *statusCmd) Run(ctx context.Context, out program.Streams) error {
	return withOutbox(ctx, c.DatabaseFlags, func(pool *pgxpool.Pool) error {
		s, err := outbox.ReadStatus(ctx, pool)
		if err != nil {
			return err
		}
		if c.JSON {
			return json.NewEncoder(out.Out).Encode(s)
		}
		return table(out.Out, func(w io.Writer) {
			_, _ = fmt.Fprintln(w, "LANE\tBACKLOG\tOLDEST\tDEAD\tPARKED\tKEPT SINCE\tRELAY\tPOSITION")
			for _, l := range s.Lanes {
				relay := cmp.Or(l.Owner, "-")
				if l.Owner != "" && !l.Leased {
					relay += " (gone)"
				}
				_, _ = fmt.Fprintf(w, "%d\t%d\t%s\t%d\t%d\t%s\t%s\t%s\n",
					l.Lane, l.Backlog, clock(l.Oldest), l.Dead, l.Parked, clock(l.KeptSince), relay, l.Position)
			}
			_, _ = fmt.Fprintln(w, "\nPART\tBYTES\t")
			for _, p := range s.Ring {
				_, _ = fmt.Fprintf(w, "%d\t%d\t%s\n", p.Part, p.Bytes, map[bool]string{true: "is written"}[p.Current])
			}
		})
	})
}

// table aligns what write writes.
func table(out io.Writer, write func(io.Writer)) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	write(w)
	return w.Flush()
}

func clock(t *time.Time) string {
	if t == nil {
		return "-"
	}
	return t.UTC().Format(time.RFC3339)
}

// rewindCmd is `relay rewind`.
type rewindCmd struct {
	program.DatabaseFlags
	Lane  *int   `help:"Only what is in this lane."`
	Since string `help:"How long ago, such as 10m, or a time, such as 2026-11-24T12:00:00Z." required:"" placeholder:"DURATION|TIME"`
}

// Run has messages published again.
func (c *rewindCmd) Run(ctx context.Context, out program.Streams) error {
	var at time.Time
	ago, err := time.ParseDuration(c.Since)
	if err != nil {
		at, err = time.Parse(time.RFC3339, c.Since)
	}
	if err != nil || ago < 0 {
		return program.Usagef("--since: want a duration such as 10m, or a time such as 2026-11-24T12:00:00Z")
	}
	return withOutbox(ctx, c.DatabaseFlags, func(pool *pgxpool.Pool) error {
		lanes, err := outbox.Rewind(ctx, pool, c.Lane, at, ago)
		if errors.Is(err, outbox.ErrNothingNoted) {
			return program.UsageError{Err: err}
		}
		for _, l := range lanes {
			note := ""
			if !l.Complete {
				note = "; older messages are no longer kept"
			}
			_, _ = fmt.Fprintf(out.Out, "lane %d: what was published since %s is published again%s\n", l.Lane, clock(&l.To), note)
		}
		return err
	})
}

// rebaseCmd is `relay rebase`.
type rebaseCmd struct {
	program.DatabaseFlags
	DryRun bool `help:"Only say what would be done."`
}

// Run makes an outbox that was restored from a dump one that can be published.
func (c *rebaseCmd) Run(ctx context.Context, out program.Streams) error {
	return withOutbox(ctx, c.DatabaseFlags, func(pool *pgxpool.Pool) error {
		r, err := outbox.Rebase(ctx, pool, c.DryRun)
		if err != nil {
			return err
		}
		answer := fmt.Sprintf("%d published messages were taken away, %d are published now", r.Published, r.Waiting)
		switch {
		case !r.Needed:
			answer = "there is nothing to rebase"
		case c.DryRun:
			answer = fmt.Sprintf("%d published messages would be taken away, %d published", r.Published, r.Waiting)
		}
		_, err = fmt.Fprintln(out.Out, answer)
		return err
	})
}

// deadLettersCmd is `relay dead-letters`.
type deadLettersCmd struct {
	List    listCmd    `cmd:"" help:"List the messages that NATS will not take, the latest first."`
	Redrive redriveCmd `cmd:"" help:"Send dead letters again, as new messages."`
	Purge   purgeCmd   `cmd:"" help:"Delete dead letters."`
}

type listCmd struct {
	program.DatabaseFlags
	Limit int  `help:"How many, at most." default:"50"`
	JSON  bool `name:"json" help:"Answer with JSON."`
}

// Run lists dead letters.
func (c *listCmd) Run(ctx context.Context, out program.Streams) error {
	if c.Limit < 1 {
		return program.Usagef("--limit: must be at least 1")
	}
	return withOutbox(ctx, c.DatabaseFlags, func(pool *pgxpool.Pool) error {
		letters, err := outbox.DeadLetters(ctx, pool, c.Limit)
		if err != nil {
			return err
		}
		if c.JSON {
			return json.NewEncoder(out.Out).Encode(letters)
		}
		return table(out.Out, func(w io.Writer) {
			_, _ = fmt.Fprintln(w, "SEQ\tDIED\tKEY\tSUBJECT\tBYTES\tERROR")
			for _, l := range letters {
				_, _ = fmt.Fprintf(w, "%d\t%s\t%q\t%.100q\t%d\t%.200q\n", l.Seq, clock(&l.DeadAt), l.Key, l.Subject, l.Bytes, l.Error)
			}
		})
	})
}

// chosen says which dead letters.
type chosen struct {
	Seq []int64 `arg:"" optional:"" help:"Numbers, as list shows them."`
	All bool    `help:"All of them."`
}

func (c chosen) check() error {
	if c.All == (len(c.Seq) > 0) {
		return program.Usagef("give the numbers of dead letters, or --all")
	}
	return nil
}

type redriveCmd struct {
	program.DatabaseFlags
	chosen
}

// Run sends dead letters again.
func (c *redriveCmd) Run(ctx context.Context, out program.Streams) error {
	return c.apply(ctx, c.DatabaseFlags, out, "sent again", func(ctx context.Context, pool *pgxpool.Pool, seqs []int64) (int64, error) {
		return outbox.Redrive(ctx, pool, seqs)
	})
}

type purgeCmd struct {
	program.DatabaseFlags
	chosen
	OlderThan time.Duration `help:"Only those that died so long ago."`
}

// Run deletes dead letters.
func (c *purgeCmd) Run(ctx context.Context, out program.Streams) error {
	if c.OlderThan < 0 {
		return program.Usagef("--older-than: must not be negative")
	}
	return c.apply(ctx, c.DatabaseFlags, out, "deleted", func(ctx context.Context, pool *pgxpool.Pool, seqs []int64) (int64, error) {
		return outbox.Purge(ctx, pool, seqs, c.OlderThan)
	})
}

// apply does something to the chosen letters, and says to how many.
func (c chosen) apply(ctx context.Context, d program.DatabaseFlags, out program.Streams, done string,
	do func(context.Context, *pgxpool.Pool, []int64) (int64, error),
) error {
	if err := c.check(); err != nil {
		return err
	}
	return withOutbox(ctx, d, func(pool *pgxpool.Pool) error {
		n, err := do(ctx, pool, c.Seq)
		if err != nil {
			return err
		}
		_, err = fmt.Fprintf(out.Out, "%d dead %s %s\n", n, map[bool]string{true: "letter", false: "letters"}[n == 1], done)
		return err
	})
}

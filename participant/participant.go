// Package participant runs the steps of sagas in a service of yours.
//
// Register an action and its compensation together, then call
// [Participant.Run]. Handlers may be asked twice, out of order, or to undo what
// they never did; the package answers such commands itself, from an inbox that
// it keeps in your database. An effect in that database happens exactly once:
// the handler's transaction holds the inbox row as well. An effect elsewhere
// (see [External]) is as idempotent as its target, which gets the effect id as
// its key.
//
// The rules are those of docs/protocol.md. A participant in another language
// needs none of this package: a NATS client and twenty lines will do.
package participant

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/skald-saga/skald/internal/wire"
)

// Config is what a [Participant] needs.
type Config struct {
	Service string        // the participant's name in saga definitions
	NATS    *nats.Conn    // to the server that Skald uses
	Pool    *pgxpool.Pool // to the database that holds the effects and the inbox (see [Install]); nil if all handlers are stateless
	Prefix  string        // of all subjects; default "skald"
	Log     *slog.Logger  // default: none

	Concurrency    int           // handlers at work at once; default 32
	HandlerTimeout time.Duration // of one handler; default 25s, which is below the redelivery time of 30s
	DrainTimeout   time.Duration // how long handlers at work may take to finish when Run is told to stop; default 10s
	InboxRetention time.Duration // how long an effect is remembered; default 7 days. Commands for older effects are refused
	Registerer     prometheus.Registerer
}

// Command is a request for one effect.
type Command struct {
	EffectID    string // the idempotency key: the same for every attempt
	Saga        string // the saga's id
	Step        string
	Action      string // the operation's name
	Attempt     int    // from 1; 0 if the sender did not say
	Compensates string // compensations only: the effect id of the action to undo
	Payload     json.RawMessage
}

// Handlers are the two operations of a step whose effects are in the
// participant's own database. What they do through tx is committed together
// with the memory of it. The result is encoded as JSON.
//
// An error made by [Refuse] is definitive: nothing happened, the saga turns
// back. Any other error means try again later. Undo must not refuse.
type Handlers struct {
	Do   func(ctx context.Context, tx pgx.Tx, c Command) (result any, err error)
	Undo func(ctx context.Context, tx pgx.Tx, c Command) (result any, err error) // nil: there is no compensation
}

// External are the two operations of a step whose effects are elsewhere, such
// as a payment gateway. Do uses c.EffectID as the gateway's idempotency key;
// Undo undoes the effect c.Compensates, and must also keep one that has not
// arrived at the gateway yet from happening later.
type External struct {
	Do   func(ctx context.Context, c Command) (result any, err error)
	Undo func(ctx context.Context, c Command) (result any, err error)
}

// Refusal is a definitive no.
type Refusal struct {
	Code    string // stable, for programs
	Message string // for people
}

func (r *Refusal) Error() string { return r.Code + ": " + r.Message }

// Refuse returns an error that says: this cannot be done, and nothing was.
func Refuse(code, message string) error { return &Refusal{Code: code, Message: message} }

// retryAfter is a transient error with a wish.
type retryAfter struct {
	err   error
	after time.Duration
}

func (e *retryAfter) Error() string { return e.err.Error() }
func (e *retryAfter) Unwrap() error { return e.err }

// RetryAfter wraps a transient error: the next attempt should wait that long.
func RetryAfter(d time.Duration, err error) error { return &retryAfter{err: err, after: d} }

// Participant executes the commands of one service.
type Participant struct {
	cfg        Config
	operations map[string]operation
	atWork     atWork
	metrics    *metrics
}

// operation executes commands of its phase and says what to reply.
type operation struct {
	phase wire.Phase
	run   func(ctx context.Context, c wire.Command) wire.Reply
}

// New returns a participant without operations. It fails if the configuration
// cannot work.
func New(cfg Config) (*Participant, error) {
	if !names.MatchString(cfg.Service) {
		return nil, errors.New("participant: Service must be a name of a-z, 0-9 and -")
	}
	if cfg.NATS == nil {
		return nil, errors.New("participant: NATS must be set")
	}
	if cfg.Prefix == "" {
		cfg.Prefix = "skald"
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Concurrency <= 0 {
		cfg.Concurrency = 32
	}
	for _, d := range []struct {
		field *time.Duration
		value time.Duration
	}{
		{&cfg.HandlerTimeout, 25 * time.Second}, {&cfg.DrainTimeout, 10 * time.Second}, {&cfg.InboxRetention, 7 * 24 * time.Hour},
	} {
		if *d.field <= 0 {
			*d.field = d.value
		}
	}
	m, err := newMetrics(cfg.Registerer, cfg.Service)
	if err != nil {
		return nil, fmt.Errorf("participant: register metrics: %w", err)
	}
	return &Participant{cfg: cfg, operations: map[string]operation{}, metrics: m}, nil
}

var names = regexp.MustCompile(`^[a-z0-9-]{1,64}$`)

// Step registers an action and its compensation under their names. Like
// External and Stateless it panics over a mistake in the program: a name that
// is taken, a missing handler, no Pool.
func (p *Participant) Step(action, compensation string, h Handlers) {
	p.register(action, wire.Action, h.Do != nil && p.cfg.Pool != nil,
		func(ctx context.Context, c wire.Command) wire.Reply { return p.do(ctx, c, h.Do) })
	if h.Undo != nil {
		p.register(compensation, wire.Compensation, true,
			func(ctx context.Context, c wire.Command) wire.Reply { return p.undo(ctx, c, h.Undo) })
	}
}

// External registers an action and its compensation whose effects are outside
// the participant's database.
func (p *Participant) External(action, compensation string, h External) {
	p.register(action, wire.Action, h.Do != nil && p.cfg.Pool != nil,
		func(ctx context.Context, c wire.Command) wire.Reply { return p.doExternal(ctx, c, h.Do) })
	if h.Undo != nil {
		p.register(compensation, wire.Compensation, true,
			func(ctx context.Context, c wire.Command) wire.Reply { return p.undoExternal(ctx, c, h.Undo) })
	}
}

// Stateless registers an operation that may be repeated without harm: it has
// no inbox. It may serve as action and as compensation.
func (p *Participant) Stateless(name string, do func(ctx context.Context, c Command) (result any, err error)) {
	p.register(name, "", do != nil, func(ctx context.Context, c wire.Command) wire.Reply {
		result, err := do(ctx, command(c))
		return answer(c, result, err)
	})
}

// register takes operations for commands of one phase; "" is both.
func (p *Participant) register(name string, phase wire.Phase, complete bool, run func(context.Context, wire.Command) wire.Reply) {
	if _, taken := p.operations[name]; taken {
		panic("participant: operation " + name + " is registered twice")
	}
	if !names.MatchString(name) {
		panic("participant: operation " + strconv.Quote(name) + " is not a name of a-z, 0-9 and -")
	}
	if !complete {
		panic("participant: operation " + name + " needs a handler, and a Pool if it has an inbox")
	}
	p.operations[name] = operation{phase: phase, run: run}
}

func command(c wire.Command) Command {
	cmd := Command{
		EffectID: c.EffectID.String(), Saga: c.EffectID.Saga, Step: c.EffectID.Step, Action: lastToken(c.Subject),
		Attempt: c.Attempt, Payload: c.Payload,
	}
	if c.Compensates != nil {
		cmd.Compensates = c.Compensates.String()
	}
	return cmd
}

// answer is the reply that a handler's return values stand for.
func answer(c wire.Command, result any, err error) wire.Reply {
	var refusal *Refusal
	switch {
	case err == nil:
		body, err := json.Marshal(result)
		if err == nil && len(body) > wire.MaxBody {
			err = fmt.Errorf("more than %d bytes", wire.MaxBody)
		}
		if err != nil {
			return transient(c, "transient", fmt.Errorf("encode result: %w", err))
		}
		return wire.Reply{EffectID: c.EffectID, Attempt: c.Attempt, Outcome: wire.Succeeded, Body: body}
	case errors.As(err, &refusal):
		return refused(c, refusal.Code, refusal.Message)
	}
	return transient(c, "transient", err)
}

func refused(c wire.Command, code, message string) wire.Reply {
	return wire.Reply{EffectID: c.EffectID, Attempt: c.Attempt, Outcome: wire.Failed, Failure: failure(code, message)}
}

func transient(c wire.Command, code string, err error) wire.Reply {
	r := wire.Reply{EffectID: c.EffectID, Attempt: c.Attempt, Outcome: wire.Retry, Failure: failure(code, err.Error())}
	var wish *retryAfter
	if errors.As(err, &wish) {
		r.RetryAfter = wish.after
	}
	return r
}

// failure keeps what is said short: it is stored with the saga.
func failure(code, message string) *wire.Failure {
	return &wire.Failure{Code: clip(code, 100), Message: clip(message, 2000)}
}

func clip(s string, most int) string {
	if len(s) <= most {
		return s
	}
	return strings.ToValidUTF8(s[:most], "") + "…"
}

// Run executes commands until ctx is cancelled; handlers at work finish first,
// within DrainTimeout. The participant's consumer is made by Skald: while it,
// NATS or the database is away, Run waits and tries again.
func (p *Participant) Run(ctx context.Context) error {
	js, err := jetstream.New(p.cfg.NATS, jetstream.WithPublishAsyncTimeout(5*time.Second), jetstream.WithPublishAsyncMaxPending(4096))
	if err != nil {
		return fmt.Errorf("use JetStream: %w", err)
	}
	if p.cfg.Pool != nil {
		stopped := make(chan struct{})
		defer func() { <-stopped }()
		go func() { defer close(stopped); p.purgeLoop(ctx) }()
	}
	w := worker{Participant: p, js: js, slots: make(chan struct{}, p.cfg.Concurrency)}
	w.run(ctx)
	return nil
}

func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}

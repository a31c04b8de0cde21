package bus

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/skald-saga/skald/internal/wire"
)

// EngineConsumer is the durable consumer on the replies stream that all
// servers share.
const EngineConsumer = "engine"

// Topology is what Skald needs to exist in JetStream. Participants need no
// rights to create anything: their consumers are made for them.
type Topology struct {
	Prefix       string
	Participants []string
	Replicas     int // of the streams; 0 is 1
}

// ErrUnsafeStream says that a stream exists but could lose messages: it needs
// an operator.
var ErrUnsafeStream = errors.New("stream is not safe for Skald")

// Ensure creates what is missing and checks what is there: all of it, so that
// one wrong stream does not keep the rest from being. It returns
// [ErrUnsafeStream] for a queue that could drop or expire messages, for a
// consumer that could forget them, and for an events stream that could hold up
// the relay.
func (t Topology) Ensure(ctx context.Context, js jetstream.JetStream) error {
	consumers := make(map[string]string, len(t.Participants))
	for _, p := range t.Participants {
		consumers[p] = t.Prefix + ".cmd." + p + ".>"
	}
	replies := t.Prefix + ".reply.>"
	return errors.Join(
		t.ensure(ctx, js, t.queue(wire.CommandsStream(t.Prefix), t.Prefix+".cmd.>"), lossy, consumers),
		t.ensure(ctx, js, t.queue(wire.RepliesStream(t.Prefix), replies), lossy, map[string]string{EngineConsumer: replies}),
		t.ensure(ctx, js, t.log(wire.EventsStream(t.Prefix), t.Prefix+".evt.>"), obstructive, nil),
	)
}

// queue is a stream of which each message is for one consumer. WorkQueue
// without MaxAge: a command waits until a participant has taken it. DiscardNew:
// a full stream pushes back instead of forgetting.
func (t Topology) queue(name, subject string) jetstream.StreamConfig {
	return jetstream.StreamConfig{
		Name: name, Subjects: []string{subject}, Storage: jetstream.FileStorage,
		Retention: jetstream.WorkQueuePolicy, Discard: jetstream.DiscardNew,
		Duplicates: 2 * time.Minute, Replicas: max(t.Replicas, 1), AllowAtomicPublish: true,
	}
}

// What the events stream keeps, unless an operator has made it otherwise.
const (
	eventsMaxAge   = 7 * 24 * time.Hour
	eventsMaxBytes = 1 << 30
)

// log is a stream that anybody may read and that forgets what is old.
func (t Topology) log(name, subject string) jetstream.StreamConfig {
	cfg := t.queue(name, subject)
	cfg.Retention, cfg.Discard = jetstream.LimitsPolicy, jetstream.DiscardOld
	cfg.MaxAge, cfg.MaxBytes = eventsMaxAge, eventsMaxBytes
	return cfg
}

// check lists what is wrong with a stream as it is.
type check func(is, want jetstream.StreamConfig) []string

// ensure sees to a stream and its consumers, which are given as name and
// filter.
func (t Topology) ensure(ctx context.Context, js jetstream.JetStream, want jetstream.StreamConfig, flaws check, consumers map[string]string) error {
	stream, err := js.Stream(ctx, want.Name)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		stream, err = js.CreateStream(ctx, want)
		if errors.Is(err, jetstream.ErrStreamNameAlreadyInUse) { // another server was first
			stream, err = js.Stream(ctx, want.Name)
		}
	}
	if err != nil {
		return fmt.Errorf("ensure stream %s: %w", want.Name, err)
	}
	if wrong := flaws(stream.CachedInfo().Config, want); len(wrong) > 0 {
		return fmt.Errorf("%w: %s: %s", ErrUnsafeStream, want.Name, strings.Join(wrong, ", "))
	}
	allowBatches(ctx, js, stream)
	var errs []error
	for name, filter := range consumers {
		errs = append(errs, ensureConsumer(ctx, js, want.Name, name, filter))
	}
	return errors.Join(errs...)
}

// allowBatches sees to it that a stream of an older server or of an operator
// takes batches. If it cannot be changed, messages go to it one by one.
func allowBatches(ctx context.Context, js jetstream.JetStream, stream jetstream.Stream) {
	cfg := stream.CachedInfo().Config
	if cfg.AllowAtomicPublish || !syncsBatches(js.Conn().ConnectedServerVersion()) {
		return
	}
	cfg.AllowAtomicPublish = true
	_, _ = js.UpdateStream(ctx, cfg)
}

// lossy says why a queue could lose messages, or not take them.
func lossy(cfg, want jetstream.StreamConfig) []string {
	return stated([]flaw{
		{cfg.Storage != jetstream.FileStorage, "storage must be file"},
		{cfg.Retention != jetstream.WorkQueuePolicy, "retention must be workqueue"},
		{cfg.Discard != jetstream.DiscardNew, "discard must be new"},
		{cfg.MaxMsgsPerSubject > 0, "max messages per subject must not be set (one participant that is away would hold up the commands of all)"},
		{cfg.MaxAge != 0, "max age must not be set"},
		{cfg.NoAck, "acknowledgements must be on"},
		{!slices.Equal(cfg.Subjects, want.Subjects), "the subject must be " + want.Subjects[0]},
	})
}

// obstructive says why the events stream could one day refuse an event, and so
// hold up what the relay has to send after it. How much it keeps, and where,
// is the operator's choice.
func obstructive(cfg, want jetstream.StreamConfig) []string {
	return stated([]flaw{
		{cfg.Retention != jetstream.LimitsPolicy, "retention must be limits"},
		{cfg.Discard != jetstream.DiscardOld, "discard must be old"},
		{cfg.NoAck, "acknowledgements must be on"},
		{!slices.Equal(cfg.Subjects, want.Subjects), "the subject must be " + want.Subjects[0]},
	})
}

// flaw is something that must not be, and what must be instead.
type flaw struct {
	is   bool
	must string
}

func stated(flaws []flaw) (wrong []string) {
	for _, f := range flaws {
		if f.is {
			wrong = append(wrong, f.must)
		}
	}
	return wrong
}

func ensureConsumer(ctx context.Context, js jetstream.JetStream, stream, name, filter string) error {
	consumer, err := js.Consumer(ctx, stream, name)
	if errors.Is(err, jetstream.ErrConsumerNotFound) {
		consumer, err = js.CreateOrUpdateConsumer(ctx, stream, jetstream.ConsumerConfig{
			Durable: name, FilterSubject: filter, AckPolicy: jetstream.AckExplicitPolicy,
			AckWait: 30 * time.Second, MaxDeliver: -1, MaxAckPending: 16384,
		})
	}
	if err != nil {
		return fmt.Errorf("ensure consumer %s of %s: %w", name, stream, err)
	}
	cfg := consumer.CachedInfo().Config
	if cfg.AckPolicy != jetstream.AckExplicitPolicy || cfg.MaxDeliver > 0 || cfg.FilterSubject != filter {
		return fmt.Errorf("%w: consumer %s of %s: it must acknowledge explicitly, deliver without limit, and filter %s",
			ErrUnsafeStream, name, stream, filter)
	}
	return nil
}

// Keeper keeps the topology in being.
type Keeper struct {
	Topology     Topology
	Participants func(context.Context) ([]string, error) // asked at each look; nil: they are as the topology says
	JS           jetstream.JetStream
	Log          *slog.Logger

	poke chan struct{}
}

const keepInterval = 5 * time.Second

// NewKeeper returns a keeper that does nothing before Run.
func NewKeeper(nc *nats.Conn, t Topology, log *slog.Logger) (*Keeper, error) {
	js, err := jetstream.New(nc)
	if err != nil {
		return nil, fmt.Errorf("use JetStream: %w", err)
	}
	return &Keeper{Topology: t, JS: js, Log: log, poke: make(chan struct{}, 1)}, nil
}

// Poke makes the keeper look now: something was found missing.
func (k *Keeper) Poke() {
	select {
	case k.poke <- struct{}{}:
	default:
	}
}

func (k *Keeper) look(ctx context.Context) error {
	if k.Participants != nil {
		// If nobody can say, those that were known are looked after.
		if names, err := k.Participants(ctx); err == nil {
			k.Topology.Participants = names
		}
	}
	return k.Topology.Ensure(ctx, k.JS)
}

// Run looks at intervals, and when poked, until ctx is cancelled.
func (k *Keeper) Run(ctx context.Context) error {
	healthy := true
	for {
		look, cancel := context.WithTimeout(ctx, 10*time.Second)
		err := k.look(look)
		cancel()
		interval := keepInterval
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil:
			interval = time.Second
			if healthy { // once, not every second
				k.Log.WarnContext(ctx, "streams are not as they must be", "err", err)
			}
		case !healthy:
			k.Log.InfoContext(ctx, "streams are in order again")
		}
		healthy = err == nil
		timer := time.NewTimer(interval)
		select {
		case <-ctx.Done():
			timer.Stop()
			return nil
		case <-k.poke:
			timer.Stop()
			// Those who find something missing poke in a hurry.
			select {
			case <-ctx.Done():
				return nil
			case <-time.After(100 * time.Millisecond):
			}
		case <-timer.C:
		}
	}
}

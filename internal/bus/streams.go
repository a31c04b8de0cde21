package bus

import (
	"context"
	"errors"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// streams knows which stream takes a subject, and whether it takes atomic
// batches. What it knows may be out of date: a batch whose messages do not all
// go to one stream is refused as incomplete.
type streams struct {
	js jetstream.JetStream

	known  []*stream
	absent map[string]bool // subjects without a stream
	until  time.Time       // when to ask again
	silent bool            // JetStream does not answer such questions: do not ask

	pace time.Duration // what a row costs that goes one by one, as last measured; zero: not known
}

// stream is where a batch goes.
type stream struct {
	name     string
	subjects []string
	atomic   bool // takes batches
	replicas int
}

const (
	streamsKept   = 30 * time.Second
	streamsLimit  = 1000 // subjects without a stream that are remembered
	streamsAnswer = time.Second
)

// of returns the stream of a subject, or nil if none is known.
func (s *streams) of(ctx context.Context, subject string) *stream {
	if now := time.Now(); now.After(s.until) {
		s.forget()
		s.until = now.Add(streamsKept)
	}
	for _, known := range s.known {
		if known.takes(subject) {
			return known
		}
	}
	if s.silent || s.absent[subject] || ctx.Err() != nil {
		return nil
	}
	found, err := s.ask(ctx, subject)
	switch {
	case err == nil:
		s.known = append(s.known, found)
	case errors.Is(err, jetstream.ErrStreamNotFound) && len(s.absent) < streamsLimit:
		s.absent[subject] = true
	default:
		s.silent = true
	}
	return found
}

// forget makes it ask again.
func (s *streams) forget() { s.known, s.absent, s.silent, s.pace = nil, map[string]bool{}, false, 0 }

// refuse remembers that a stream takes no batches, whatever its configuration
// says.
func (s *streams) refuse(to *stream) {
	to.atomic = false
	s.known = append(s.known, to)
}

func (s *streams) ask(ctx context.Context, subject string) (*stream, error) {
	ctx, cancel := context.WithTimeout(ctx, streamsAnswer)
	defer cancel()
	name, err := s.js.StreamNameBySubject(ctx, subject)
	if err != nil {
		return nil, err
	}
	found, err := s.js.Stream(ctx, name)
	if err != nil {
		return nil, err
	}
	cfg := found.CachedInfo().Config
	return &stream{
		name: name, subjects: cfg.Subjects, replicas: cfg.Replicas,
		atomic: cfg.AllowAtomicPublish && syncsBatches(s.js.Conn().ConnectedServerVersion()),
	}, nil
}

func (s *stream) takes(subject string) bool {
	for _, filter := range s.subjects {
		if matches(filter, subject) {
			return true
		}
	}
	return false
}

// matches says whether a subject without wildcards is one of the filter's.
func matches(filter, subject string) bool {
	for {
		want, moreWanted, wantsMore := strings.Cut(filter, ".")
		is, moreIs, hasMore := strings.Cut(subject, ".")
		switch {
		case want == ">":
			return true
		case want != "*" && want != is, wantsMore != hasMore:
			return false
		case !wantsMore:
			return true
		}
		filter, subject = moreWanted, moreIs
	}
}

// syncsBatches says whether servers of this version put a batch on disk by one
// sync before they acknowledge it. Those before 2.15 do not.
func syncsBatches(version string) bool {
	majorText, rest, _ := strings.Cut(version, ".")
	minorText, _, _ := strings.Cut(rest, ".")
	major, err := strconv.Atoi(majorText)
	if err != nil {
		return false
	}
	minor, err := strconv.Atoi(minorText)
	return err == nil && (major > 2 || (major == 2 && minor >= 15))
}

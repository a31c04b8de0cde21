package bus

import (
	"context"
	"crypto/rand"
	"errors"
	"slices"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/skald-saga/skald/internal/outbox"
)

// Method is how rows are published.
type Method string

// The methods. A batch costs two writes of the whole before it is acknowledged,
// but only one wait for the disk, so it pays where each message would have to
// wait, for other servers or for the disk (docs/decisions/014-batches.md).
const (
	Auto  Method = "auto"  // as pays
	Batch Method = "batch" // atomic batches, if the stream takes them
	Async Method = "async" // one by one, many under way at once
)

const (
	batchLeast = 2  // a batch of one is a message
	batchPays  = 10 // rows from which on a batch pays on a replicated stream

	// batchCost is what a batch takes on a stream without replicas, at worst.
	batchCost = 100 * time.Millisecond

	// paceLeast is how many rows must have been sent one by one to tell what one
	// costs.
	paceLeast = 32
)

// Headers of an atomic batch.
const (
	headerBatchID       = "Nats-Batch-Id"
	headerBatchSequence = "Nats-Batch-Sequence"
	headerBatchCommit   = "Nats-Batch-Commit"
)

// part is the rows of a page that go together, by their places.
type part struct {
	stream *stream // that takes them as a batch; nil: they go one by one
	rows   []int
}

// parts cuts a page: each row goes with others of its stream, but not before
// the part in which an earlier row of its key goes.
func (p *Publisher) parts(ctx context.Context, rows []outbox.Row) []part {
	to := p.batches(ctx, rows)
	type place struct {
		stream *stream
		level  int // how often the key has changed streams
	}
	var levels [][]part
	last := make(map[string]place, len(rows))
	for i, row := range rows {
		at, found := last[row.Key]
		if found && at.stream != to[i] {
			at.level++
		}
		at.stream = to[i]
		last[row.Key] = at
		if at.level == len(levels) {
			levels = append(levels, nil)
		}
		levels[at.level] = add(levels[at.level], to[i], i)
	}
	return slices.Concat(levels...)
}

// batches says of each row to which stream it goes as part of a batch, or nil.
func (p *Publisher) batches(ctx context.Context, rows []outbox.Row) []*stream {
	to := make([]*stream, len(rows))
	if p.Method == Async || len(rows) < batchLeast || (p.Method != Batch && len(rows) < batchPays) {
		return to
	}
	count := map[*stream]int{}
	for i, row := range rows {
		to[i] = p.streams.of(ctx, row.Subject)
		count[to[i]]++
	}
	for i, s := range to {
		if s != nil && !(s.atomic && p.pays(s, count[s])) {
			to[i] = nil
		}
	}
	return to
}

// pays says whether so many rows should go to the stream as a batch.
func (p *Publisher) pays(s *stream, rows int) bool {
	switch {
	case p.Method == Batch:
		return rows >= batchLeast
	case s.replicas > 1:
		return rows >= batchPays
	}
	return time.Duration(rows)*p.streams.pace > batchCost
}

func add(parts []part, to *stream, row int) []part {
	for i := range parts {
		if parts[i].stream == to {
			parts[i].rows = append(parts[i].rows, row)
			return parts
		}
	}
	return append(parts, part{to, []int{row}})
}

// batch publishes rows as one atomic batch. It returns those that must be sent
// one by one instead, because the stream has not taken the batch as it was.
//
// JetStream refuses a batch of which it knows an id. That says that one of the
// rows has arrived, not that all have: the batch may be cut otherwise than when
// it was sent before, by us or by another relay. So they are sent one by one,
// and JetStream says of each whether it has it.
func (s *sending) batch(ctx context.Context, to *stream, todo []int) (again []int) {
	var messages []*nats.Msg
	var sound []int
	for _, i := range todo {
		msg, err := message(s.rows[i])
		if err != nil {
			s.results[i] = poison(err)
			continue
		}
		messages, sound = append(messages, msg), append(sound, i)
	}
	if len(sound) < batchLeast || ctx.Err() != nil {
		return sound
	}
	res := s.sendBatch(messages)
	switch {
	case res.Err == nil:
		for _, i := range sound {
			s.results[i] = outbox.Result{}
		}
		return nil
	case !res.Poison && !res.Blocked && !unanswered(res.Err): // the next try is of the same rows
		for _, i := range sound {
			s.results[i] = res
		}
		return nil
	}
	s.streams.forget()
	var api *jetstream.APIError
	if errors.As(res.Err, &api) && (api.ErrorCode == codeBatchesDisabled || api.ErrorCode == codeBatchTooLarge) {
		s.streams.refuse(to)
	}
	return sound
}

// sendBatch sends messages as one batch and waits for its outcome.
func (p *Publisher) sendBatch(messages []*nats.Msg) outbox.Result {
	id := []string{rand.Text()}
	for i, msg := range messages {
		msg.Header[headerBatchID] = id
		msg.Header[headerBatchSequence] = []string{strconv.Itoa(i + 1)}
	}
	last := messages[len(messages)-1]
	for _, msg := range messages[:len(messages)-1] {
		if err := p.js.Conn().PublishMsg(msg); err != nil { // JetStream abandons a batch that is not committed
			res := outcome(err)
			res.Unknown = false
			return res
		}
	}
	last.Header[headerBatchCommit] = []string{"1"}
	f, res := p.send(last)
	if res.Err != nil {
		return res
	}
	return p.await(f)
}

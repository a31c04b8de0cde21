package bus

import (
	"context"

	"github.com/nats-io/nats.go/jetstream"
)

// window is how many messages may be under way at once. Messages behind a
// failed one are sent again, so it also bounds the duplicates.
const window = 512

// window sends rows one by one, those of different keys together: a key's next
// row is sent only when its previous one has been acknowledged. It reports
// whether more may be sent.
func (s *sending) window(ctx context.Context, todo []int) bool {
	for len(todo) > 0 {
		later, ok := s.round(ctx, todo)
		if !ok {
			return false
		}
		todo = later
	}
	return true
}

// round sends the first row of each key among todo, and returns the others. It
// is not ok if a row must be sent again.
func (s *sending) round(ctx context.Context, todo []int) (later []int, ok bool) {
	busy := make(map[string]struct{}, len(todo))
	var sent []int
	var futures []jetstream.PubAckFuture
	ok = true
	awaited := 0
	await := func() {
		i := sent[awaited]
		s.note(ctx, i, s.await(futures[awaited]))
		ok = ok && (s.results[i].Err == nil || s.results[i].Poison || s.results[i].Blocked)
		awaited++
	}
	for _, i := range todo {
		if _, taken := busy[s.rows[i].Key]; taken {
			later = append(later, i)
			continue
		}
		busy[s.rows[i].Key] = struct{}{}
		if len(sent)-awaited == window {
			await()
		}
		if ok = ok && ctx.Err() == nil; !ok {
			break
		}
		msg, err := message(s.rows[i])
		if err != nil {
			s.results[i] = poison(err)
			continue
		}
		f, refused := s.send(msg)
		if refused.Err != nil {
			s.results[i] = refused
			ok = refused.Poison
			continue
		}
		sent, futures = append(sent, i), append(futures, f)
	}
	for awaited < len(sent) {
		await()
	}
	return s.free(later), ok
}

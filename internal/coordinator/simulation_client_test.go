package coordinator

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
)

// wish is what a client wants to be started, for which it asks until it knows.
type wish struct {
	key         string
	fingerprint [32]byte
	startAt     time.Time
	answered    bool
	refused     bool // the key belongs to another request
	saga        uuid.UUID
}

func (w *world) wishFor() {
	x := &wish{key: "k" + string(rune('0'+len(w.wishes)))}
	if w.IntN(6) == 0 {
		x.startAt = simStart.Add(time.Duration(w.IntN(60)) * time.Second)
	}
	if len(w.wishes) > 0 && w.IntN(3) == 0 { // another client with the same key
		*x = wish{key: w.wishes[0].key, fingerprint: w.wishes[0].fingerprint}
		if w.IntN(2) == 0 {
			x.fingerprint[0]++
		}
	}
	w.wishes = append(w.wishes, x)
}

// start has clients ask a server for what they want, in one transaction; some
// of them know already.
func (w *world) start(s *simServer, most int) {
	var asked []*wish
	for range most {
		if x := w.wishes[w.IntN(len(w.wishes))]; !x.answered || w.IntN(8) == 0 {
			asked = append(asked, x)
		}
	}
	if len(asked) > 0 {
		w.startThese(s, asked)
	}
}

func (w *world) startThese(s *simServer, asked []*wish) {
	w.spawn(s, fmt.Sprintf("%d starts", len(asked)), func(*task) {
		ctx := context.Background()
		jobs := make([]*startJob, len(asked))
		for i, x := range asked {
			def, err := s.c.startable(ctx, "random", 0)
			if err != nil {
				w.failf("P8", "%v", err)
			}
			jobs[i], err = s.c.newStart(def, StartRequest{
				Definition: def.Name, Input: w.sources[def.id-1].input, StartAt: x.startAt,
				Key: &IdempotencyKey{Route: "sagas", Key: x.key, Fingerprint: x.fingerprint},
			})
			if err != nil {
				w.failf("P8", "%v", err)
			}
		}
		s.c.write(ctx, jobs)
		for i, x := range asked {
			w.answer(x, jobs[i], <-jobs[i].done)
		}
	})
}

// answer is what a client hears of its start.
func (w *world) answer(x *wish, job *startJob, res startResult) {
	id := job.row.id
	switch {
	case errors.Is(res.err, ErrKeyReused):
		if x.answered && !x.refused {
			w.failf("P8", "a repetition of start %s was refused", x.key)
		}
		x.answered, x.refused = true, true
		return
	case res.err != nil:
		return // it will ask again
	case res.replayOf != uuid.Nil:
		id = res.replayOf
	}
	if x.answered && (x.refused || x.saga != id) {
		w.failf("P8", "start %s was answered with saga %s, and then with %s", x.key, x.saga, id)
	}
	x.answered, x.saga = true, id
}

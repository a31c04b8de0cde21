package coordinator

import (
	"fmt"
	"iter"
	"runtime/debug"
)

// task is something that a server or a relay is doing: a few transactions and
// what belongs to them. Tasks are coroutines. Only one runs at a time, until it
// comes to a step at which another may run, or at which its process may die.
type task struct {
	server     *simServer // nil: a relay's
	doing      string
	co         *coroutine
	waits      *simSession // it can go on when that one has ended
	deadlocked bool        // it was told to give up waiting
	dealt      int         // deliveries that its commits have dealt with
}

// coroutine runs one job after the other. It is used again by later worlds: a
// new one for every task would cost more than the task.
type coroutine struct {
	next   func() (bool, bool) // true: the job is not done
	stop   func()
	yield  func(bool) bool
	job    func()
	killed bool
}

// died unwinds a task whose process has died.
type died struct{}

// violation unwinds a world in which a promise is broken.
type violation struct{ promise, text string }

func (v violation) String() string { return v.promise + ": " + v.text }

func newCoroutine() *coroutine {
	co := &coroutine{}
	co.next, co.stop = iter.Pull(func(yield func(bool) bool) {
		co.yield = yield
		for {
			co.run()
			if !yield(false) {
				return
			}
		}
	})
	return co
}

func (co *coroutine) run() {
	defer func() {
		switch v := recover().(type) {
		case nil, died:
		case violation:
			panic(v)
		default:
			panic(violation{"no panic", fmt.Sprintf("%v\n%s", v, debug.Stack())})
		}
	}()
	co.job()
}

// spawn makes a task, which does nothing before it is resumed.
func (w *world) spawn(s *simServer, doing string, job func(*task)) *task {
	t := &task{server: s, doing: doing}
	if n := len(w.idle); n > 0 {
		t.co, w.idle = w.idle[n-1], w.idle[:n-1]
	} else {
		t.co = newCoroutine()
	}
	t.co.killed, t.co.job = false, func() { job(t) }
	w.tasks = append(w.tasks, t)
	w.logf("begin %s", t)
	return t
}

// step is where others may run, and the process may die.
func (w *world) step() {
	t := w.current
	t.co.yield(true)
	if t.co.killed {
		panic(died{})
	}
}

// resume lets a task run to its next step.
func (w *world) resume(t *task) {
	w.current = t
	more, _ := t.co.next()
	w.current = nil
	if !more {
		w.end(t)
	}
}

// kill lets a task's process die where the task stands.
func (w *world) kill(t *task) {
	w.logf("kill %s", t)
	t.co.killed = true
	w.resume(t)
}

func (w *world) end(t *task) {
	for i, other := range w.tasks {
		if other == t {
			w.tasks = append(w.tasks[:i], w.tasks[i+1:]...)
		}
	}
	w.idle = append(w.idle, t.co)
	w.nats.giveBack(t)
}

// runOne resumes a task that can go on. If all wait for each other, one is told
// that there is a deadlock.
func (w *world) runOne() {
	var ready []*task
	for _, t := range w.tasks {
		if t.waits == nil || t.waits.ended {
			ready = append(ready, t)
		}
	}
	if len(ready) == 0 {
		t := w.tasks[w.IntN(len(w.tasks))]
		t.deadlocked = true
		w.resume(t)
		return
	}
	w.resume(ready[w.IntN(len(ready))])
}

// settle runs all tasks to their ends.
func (w *world) settle() {
	for range 10_000 {
		if len(w.tasks) == 0 {
			return
		}
		w.runOne()
	}
	w.failf("P2", "tasks wait for each other for ever")
}

func (t *task) String() string {
	if t.server == nil {
		return "relay: " + t.doing
	}
	return fmt.Sprintf("server %d: %s", t.server.number, t.doing)
}

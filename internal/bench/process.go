package bench

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"time"
)

// child is a program that we have started. It ends when we do.
type child struct {
	role   string
	cmd    *exec.Cmd
	stdin  io.Closer // nil: the child does not look at it
	exited chan struct{}
	err    error         // what it ended with, once it has
	heard  chan struct{} // closed when all that it wrote has been read

	mu   sync.Mutex
	last []string // of its lines
}

// spawn starts a program and waits until ready accepts a line that it writes.
// If job is not nil, the program gets it as JSON on its standard input, which
// stays open until the program is to end.
func spawn(ctx context.Context, role string, job any, ready func(line []byte) bool, path string, args ...string) (*child, error) {
	c := &child{role: role, cmd: exec.Command(path, args...), exited: make(chan struct{}), heard: make(chan struct{})} //nolint:noctx // it is stopped by hand
	c.cmd.SysProcAttr = processAttributes()
	out, in, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	c.cmd.Stdout, c.cmd.Stderr = in, in
	var send io.WriteCloser
	if job != nil {
		if send, err = c.cmd.StdinPipe(); err != nil {
			return nil, errors.Join(err, out.Close(), in.Close())
		}
		c.stdin = send
	}
	if err := c.run(); err != nil {
		return nil, errors.Join(fmt.Errorf("start %s: %w", role, err), out.Close(), in.Close())
	}
	_ = in.Close() // the child has its own
	accepted := make(chan struct{})
	go c.read(out, ready, accepted)
	if send != nil {
		if err := json.NewEncoder(send).Encode(job); err != nil {
			return nil, errors.Join(fmt.Errorf("start %s: %w", role, err), c.stop())
		}
	}
	select {
	case <-accepted:
		return c, nil
	case <-ctx.Done():
		err = ctx.Err()
	case <-c.exited:
		err = fmt.Errorf("%s ended while starting: %s", role, c.said())
	case <-time.After(time.Minute):
		err = fmt.Errorf("%s did not get ready: %s", role, c.said())
	}
	return nil, errors.Join(err, c.stop())
}

// run starts the program from a thread that lives as long as it does: on Linux
// the signal that ends it when we die comes when that thread ends.
func (c *child) run() error {
	started := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := c.cmd.Start()
		started <- err
		if err == nil {
			c.err = c.cmd.Wait()
		}
		close(c.exited)
	}()
	return <-started
}

func (c *child) read(out io.ReadCloser, ready func([]byte) bool, accepted chan<- struct{}) {
	defer close(c.heard)
	defer func() { _ = out.Close() }()
	lines := bufio.NewScanner(out)
	lines.Buffer(nil, 1<<20)
	for waiting := true; lines.Scan(); {
		if waiting && ready(lines.Bytes()) {
			waiting = false
			close(accepted)
		}
		c.mu.Lock()
		c.last = append(c.last, lines.Text())
		c.last = c.last[max(0, len(c.last)-5):]
		c.mu.Unlock()
	}
	_, _ = io.Copy(io.Discard, out) // an endless line must not block it
}

// said returns its last lines: of a program that has ended, the very last.
func (c *child) said() string {
	select {
	case <-c.exited:
		select {
		case <-c.heard:
		case <-time.After(time.Second): // a child of its own may still hold the pipe
		}
	default:
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return strings.Join(c.last, "; ")
}

// check returns an error if the program has ended before it was told to.
func (c *child) check() error {
	select {
	case <-c.exited:
		return fmt.Errorf("%s ended: %w: %s", c.role, cmpErr(c.err), c.said())
	default:
		return nil
	}
}

func cmpErr(err error) error {
	if err == nil {
		return errors.New("exit status 0")
	}
	return err
}

// stop ends the program and waits for it.
func (c *child) stop() error {
	if c.stdin != nil {
		_ = c.stdin.Close()
	}
	_ = c.cmd.Process.Signal(os.Interrupt) // gone already: nothing to stop
	select {
	case <-c.exited:
	case <-time.After(30 * time.Second):
		_ = c.cmd.Process.Kill()
		<-c.exited
	}
	if c.err != nil {
		return fmt.Errorf("stop %s: %w: %s", c.role, c.err, c.said())
	}
	return nil
}

// logged accepts the line of a JSON log that has this message, and decodes it.
func logged(msg string, into any) func([]byte) bool {
	return func(line []byte) bool {
		return bytes.Contains(line, []byte(`"msg":"`+msg+`"`)) && json.Unmarshal(line, into) == nil
	}
}

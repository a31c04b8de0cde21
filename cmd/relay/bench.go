package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/skald-saga/skald/internal/program"
)

// benchCmd is `relay bench`. A bench needs a JetStream server, which would make
// this program half as large again; so the server's program does the measuring
// (docs/decisions/014-bench-in-the-server.md).
type benchCmd struct {
	Quick  bool   `help:"About a minute in all: small backlogs and short turns."`
	JSON   string `name:"json" help:"Write the outcome into this file, as JSON." placeholder:"FILE"`
	Rows   int    `help:"Messages that wait when a turn begins; default 200000, or 30000 with --quick." placeholder:"N"`
	Large  int    `help:"Messages of the large backlog; default 2000000, or 200000 with --quick." placeholder:"N"`
	Rounds int    `help:"Turns that each of two things that are compared gets; default 5, or 3 with --quick." placeholder:"N"`
	Server string `help:"The server's program, which measures; default: the one beside this one, or it is built." placeholder:"FILE"`
}

// Run starts the server's program and shows what it says. That ends with us,
// however we end: it reads from a pipe whose other end is ours.
func (b *benchCmd) Run(ctx context.Context, out program.Streams) error {
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find this program: %w", err)
	}
	server, remove, err := b.findServer(ctx, self)
	if err != nil {
		return err
	}
	defer remove()
	args := []string{"bench-relay", "--relay", self}
	if b.Quick {
		args = append(args, "--quick")
	}
	if b.JSON != "" {
		args = append(args, "--json", b.JSON)
	}
	for flag, n := range map[string]int{"--rows": b.Rows, "--large": b.Large, "--rounds": b.Rounds} {
		if n != 0 {
			args = append(args, fmt.Sprintf("%s=%d", flag, n))
		}
	}
	cmd := exec.Command(server, args...) //nolint:noctx // it stops what it has started when its input ends
	input, err := cmd.StdinPipe()
	if err != nil {
		return err
	}
	var complaint bytes.Buffer
	cmd.Stdout, cmd.Stderr = out.Out, &complaint
	if err := cmd.Start(); err != nil {
		return program.Usagef("--server: %w", err)
	}
	defer context.AfterFunc(ctx, func() { _ = input.Close() })()
	err = cmd.Wait()
	var exit *exec.ExitError
	if !errors.As(err, &exit) {
		return err
	}
	said := errors.New(strings.TrimPrefix(strings.TrimSpace(complaint.String()), "server: "))
	if exit.ExitCode() == 2 {
		return program.UsageError{Err: said}
	}
	return fmt.Errorf("%w (%w)", said, err)
}

// findServer returns the server's program, and a function that removes it if
// it was built.
func (b *benchCmd) findServer(ctx context.Context, self string) (path string, remove func(), err error) {
	keep := func() {}
	if b.Server != "" {
		return b.Server, keep, nil
	}
	beside := filepath.Join(filepath.Dir(self), "server")
	if info, err := os.Stat(beside); err == nil && !info.IsDir() {
		return beside, keep, nil
	}
	dir, err := os.MkdirTemp("", "skald-server-")
	if err != nil {
		return "", keep, err
	}
	remove = func() { _ = os.RemoveAll(dir) }
	path = filepath.Join(dir, "server")
	out, err := exec.CommandContext(ctx, "go", "build", "-o", path, "github.com/skald-saga/skald/cmd/server").CombinedOutput()
	if err != nil {
		remove()
		return "", keep, program.Usagef("--server: it is not beside this program and cannot be built here: %w: %s", err, lastOf(out))
	}
	return path, remove, nil
}

func lastOf(out []byte) string {
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	return lines[len(lines)-1]
}

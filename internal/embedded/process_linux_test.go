package embedded_test

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/skald-saga/skald/internal/embedded"
	"github.com/skald-saga/skald/internal/testkit"
)

// Postgres refuses to run as root, which is who containers and CI often are.
func TestAClusterDoesNotRunAsRoot(t *testing.T) {
	t.Parallel()
	p := start(t, embedded.PostgresConfig{})
	data := query[string](t, p.URL("postgres"), `SHOW data_directory`)
	running := processes(t, data)
	if len(running) == 0 {
		t.Fatal("no process of the cluster found")
	}
	for _, proc := range running {
		info, err := os.Stat(proc)
		if err != nil {
			t.Fatal(err)
		}
		stat, ok := info.Sys().(*syscall.Stat_t)
		if !ok {
			t.Fatalf("no owner in %T", info.Sys())
		}
		if euid := os.Geteuid(); stat.Uid == 0 || (euid != 0 && int(stat.Uid) != euid) {
			t.Errorf("%s belongs to user %d; we are %d", proc, stat.Uid, euid)
		}
	}
}

func TestStoppingLeavesNoProcess(t *testing.T) {
	t.Parallel()
	p := start(t, embedded.PostgresConfig{})
	data := query[string](t, p.URL("postgres"), `SHOW data_directory`)
	if len(processes(t, data)) == 0 {
		t.Fatal("no process of the cluster found while it runs")
	}
	if err := p.Stop(); err != nil {
		t.Fatal(err)
	}
	if left := processes(t, data); len(left) > 0 {
		t.Errorf("still running: %v", left)
	}
}

// However the owner ends, its cluster ends with it, and the next start clears
// away its files.
func TestAKilledOwnerLeavesNoCluster(t *testing.T) {
	temp := folder(t)
	t.Setenv("TMPDIR", temp)
	owner, o := startOwner(t, "")
	if len(processes(t, o.Data)) == 0 {
		t.Fatal("no process of the cluster found while its owner lives")
	}
	embedded.SweepStale()
	if _, err := os.Stat(o.Data); err != nil {
		t.Fatalf("a sweep took the files of a living owner: %v", err)
	}
	kill(t, owner)
	testkit.Eventually(t, "the cluster ends with its owner", time.Minute, func() (bool, string) {
		left := processes(t, o.Data)
		return len(left) == 0, fmt.Sprint("still running: ", left)
	})
	embedded.SweepStale()
	empty(t, temp)
}

// The next owner waits for the cluster of the last one to shut down.
func TestAFolderIsUsedAgainAfterItsOwnerWasKilled(t *testing.T) {
	t.Parallel()
	dir := folder(t)
	owner, o := startOwner(t, dir)
	if err := embedded.CreateDatabase(t.Context(), o.URL, "kept"); err != nil {
		t.Fatal(err)
	}
	kill(t, owner)
	p := start(t, embedded.PostgresConfig{Dir: dir, Durable: true})
	if !query[bool](t, p.URL("postgres"), `SELECT EXISTS (SELECT FROM pg_database WHERE datname = 'kept')`) {
		t.Error("what was committed is lost")
	}
}

// startOwner starts another process that starts a cluster in dir.
func startOwner(t *testing.T, dir string) (*exec.Cmd, owned) {
	t.Helper()
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(program) // ourselves; killed by the test
	cmd.Env = append(os.Environ(), ownerEnv+"="+dir)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if cmd.ProcessState == nil { // the test failed before it could kill it
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
		}
	})
	var o owned
	if err := json.NewDecoder(out).Decode(&o); err != nil {
		t.Fatalf("the owner said nothing: %v", err)
	}
	return cmd, o
}

// kill ends a process as the kernel would.
func kill(t *testing.T, cmd *exec.Cmd) {
	t.Helper()
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err == nil {
		t.Fatal("the owner ended by itself")
	}
}

// processes returns those that name the data folder on their command line or
// work in it: all of a cluster's do one of the two. What has ended but was not
// yet collected has neither.
func processes(t *testing.T, data string) []string {
	t.Helper()
	all, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		t.Fatal(err)
	}
	return slices.DeleteFunc(all, func(proc string) bool {
		line, _ := os.ReadFile(filepath.Join(proc, "cmdline")) // gone: not one of them
		cwd, _ := os.Readlink(filepath.Join(proc, "cwd"))
		return cwd != data && !strings.Contains(string(line), data)
	})
}

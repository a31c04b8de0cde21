package embedded

import (
	"os"
	"path/filepath"
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

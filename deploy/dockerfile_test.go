package deploy_test

import (
	"encoding/json"
	"go/version"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/skald-saga/skald/internal/testkit"
)

// instruction is one line of a Dockerfile, with its continuation lines.
type instruction struct{ word, rest string }

func dockerfile(t *testing.T) []instruction {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(testkit.Root(t), "deploy", "Dockerfile"))
	if err != nil {
		t.Fatal(err)
	}
	var all []instruction
	for line := range strings.Lines(strings.ReplaceAll(string(b), "\\\n", " ")) {
		line = strings.Join(strings.Fields(line), " ")
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		word, rest, _ := strings.Cut(line, " ")
		all = append(all, instruction{word, rest})
	}
	return all
}

// stages splits a Dockerfile at its FROM lines.
func stages(t *testing.T) [][]instruction {
	t.Helper()
	var all [][]instruction
	for _, i := range dockerfile(t) {
		if i.word == "FROM" {
			all = append(all, nil)
		}
		if len(all) == 0 {
			t.Fatalf("%s stands before the first FROM", i.word)
		}
		all[len(all)-1] = append(all[len(all)-1], i)
	}
	return all
}

// find returns what follows the only instruction of that name.
func find(t *testing.T, stage []instruction, word string) string {
	t.Helper()
	var found []string
	for _, i := range stage {
		if i.word == word {
			found = append(found, i.rest)
		}
	}
	if len(found) != 1 {
		t.Fatalf("%d instructions %s, want 1", len(found), word)
	}
	return found[0]
}

func TestTheImageHoldsNothingButOurPrograms(t *testing.T) {
	t.Parallel()
	all := stages(t)
	last := all[len(all)-1]
	if from := find(t, last, "FROM"); from != "scratch" {
		t.Errorf("the image is built on %s", from)
	}
	for _, i := range last {
		if i.word == "RUN" || i.word == "ADD" || (i.word == "COPY" && !strings.HasPrefix(i.rest, "--from=build ")) {
			t.Errorf("the image takes something else than what was built: %s %s", i.word, i.rest)
		}
	}
	uid, _, _ := strings.Cut(find(t, last, "USER"), ":")
	if n, err := strconv.Atoi(uid); err != nil || n < 1000 {
		t.Errorf("the image runs as user %q; without a passwd file it must be a number, and not root's", uid)
	}
}

func TestTheImageIsBuiltWithTheModulesGo(t *testing.T) {
	t.Parallel()
	from := find(t, stages(t)[0], "FROM")
	tag, _, _ := strings.Cut(strings.TrimPrefix(from, "golang:"), "-")
	mod, err := os.ReadFile(filepath.Join(testkit.Root(t), "go.mod"))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(mod)) {
		if want, ok := strings.CutPrefix(line, "go "); ok && version.Lang("go"+tag) != version.Lang("go"+strings.TrimSpace(want)) {
			t.Errorf("the image is built with Go %s, go.mod wants %s", tag, want)
		}
	}
}

// Every program that compose.yaml runs is in the image, and statically linked:
// there is no library to link to.
func TestTheImageHoldsEveryProgramThatIsRun(t *testing.T) {
	t.Parallel()
	all := stages(t)
	var built []string
	for _, i := range all[0] {
		_, args, ok := strings.Cut(i.rest, " go build ")
		if i.word != "RUN" || !ok {
			continue
		}
		if !strings.Contains(i.rest, "CGO_ENABLED=0 go build ") || !strings.Contains(args, " -trimpath ") && !strings.HasPrefix(args, "-trimpath ") {
			t.Errorf("built with %s", i.rest)
		}
		for arg := range strings.FieldsSeq(args) {
			if pkg, ok := strings.CutPrefix(arg, "./"); ok {
				if _, err := os.Stat(filepath.Join(testkit.Root(t), pkg, "main.go")); err != nil {
					t.Errorf("%s is no program: %v", pkg, err)
				}
				built = append(built, "/"+path.Base(pkg))
			}
		}
	}
	for _, s := range compose(t).Services {
		if s.Image == ownImage && !slices.Contains(built, program(t, s.Entrypoint)) {
			t.Errorf("%s runs %s, the image has %v", s.Name, program(t, s.Entrypoint), built)
		}
	}
}

// program is what a service runs: its entrypoint or the image's.
func program(t *testing.T, entrypoint []string) string {
	t.Helper()
	if len(entrypoint) > 0 {
		return entrypoint[0]
	}
	all := stages(t)
	var image []string
	if err := json.Unmarshal([]byte(find(t, all[len(all)-1], "ENTRYPOINT")), &image); err != nil || len(image) != 1 {
		t.Fatalf("the image's ENTRYPOINT is not a program in brackets: %v", err)
	}
	return image[0]
}

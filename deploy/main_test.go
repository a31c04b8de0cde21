// Package deploy holds what describes Skald's deployment. Its tests read those
// files with the libraries that their users' tools are made of, and run what
// they describe.
package deploy_test

import (
	"context"
	"path/filepath"
	"testing"

	"github.com/compose-spec/compose-go/v2/loader"
	"github.com/compose-spec/compose-go/v2/types"

	"github.com/skald-saga/skald/internal/testkit"
)

func TestMain(m *testing.M) { testkit.Main(m) }

// compose loads compose.yaml as `docker compose` would, in an empty environment.
func compose(t *testing.T) *types.Project {
	t.Helper()
	root := testkit.Root(t)
	project, err := loader.LoadWithContext(context.Background(), types.ConfigDetails{
		WorkingDir:  root,
		ConfigFiles: []types.ConfigFile{{Filename: filepath.Join(root, "compose.yaml")}},
		Environment: types.Mapping{},
	}, func(o *loader.Options) { o.SetProjectName("skald", true) })
	if err != nil {
		t.Fatal(err)
	}
	if len(project.Services) == 0 {
		t.Fatal("no services")
	}
	return project
}

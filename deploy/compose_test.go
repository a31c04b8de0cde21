package deploy_test

import (
	"net"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/compose-spec/compose-go/v2/types"
)

const ownImage = "skald:local"

// An image is what it was yesterday.
func TestEveryImageHasAVersion(t *testing.T) {
	t.Parallel()
	for _, s := range compose(t).Services {
		if s.Image == ownImage {
			if s.Build == nil || s.Build.Dockerfile != "deploy/Dockerfile" {
				t.Errorf("%s is not built from deploy/Dockerfile", s.Name)
			}
			continue
		}
		if s.Build != nil || !versioned(s.Image) {
			t.Errorf("%s runs %q, which is not a version of anything", s.Name, s.Image)
		}
	}
}

// versioned reports whether an image's tag begins with a version.
func versioned(image string) bool {
	return regexp.MustCompile(`^[a-z0-9/.-]+:[0-9]+(\.[0-9]+)*(-[a-z0-9]+)?$`).MatchString(image)
}

func TestOurProgramsHaveNoRights(t *testing.T) {
	t.Parallel()
	ours := 0
	for _, s := range compose(t).Services {
		if s.Image != ownImage {
			continue
		}
		ours++
		uid, _, _ := strings.Cut(s.User, ":")
		if n, err := strconv.Atoi(uid); err != nil || n < 1000 {
			t.Errorf("%s runs as user %q", s.Name, s.User)
		}
		if !s.ReadOnly || !slices.Equal(s.CapDrop, []string{"ALL"}) || !slices.Contains(s.SecurityOpt, "no-new-privileges:true") {
			t.Errorf("%s may do more than it needs: read_only %t, cap_drop %v, security_opt %v", s.Name, s.ReadOnly, s.CapDrop, s.SecurityOpt)
		}
		if s.Privileged || len(s.CapAdd) > 0 || len(s.Volumes) > 0 {
			t.Errorf("%s has rights or volumes that it does not need", s.Name)
		}
	}
	if ours < 4 {
		t.Errorf("only %d services run our image", ours)
	}
}

// The API asks nobody who they are, so only this machine may reach it.
func TestNothingIsOpenToTheNetwork(t *testing.T) {
	t.Parallel()
	published := map[string]bool{}
	for _, s := range compose(t).Services {
		for _, p := range s.Ports {
			if ip := net.ParseIP(p.HostIP); ip == nil || !ip.IsLoopback() {
				t.Errorf("%s opens port %s on %q", s.Name, p.Published, p.HostIP)
			}
			published[s.Name] = true
		}
	}
	if !published["server"] || published["postgres"] {
		t.Errorf("ports are published by %v; want the server's, and not the database's", published)
	}
}

// Nothing is waited for that nobody tells of, and data outlives containers.
func TestDependenciesCanBeWaitedFor(t *testing.T) {
	t.Parallel()
	project := compose(t)
	for _, s := range project.Services {
		for name, on := range s.DependsOn {
			other, ok := project.Services[name]
			if !ok {
				t.Errorf("%s waits for %s, which does not exist", s.Name, name)
				continue
			}
			if on.Condition == types.ServiceConditionHealthy && other.HealthCheck == nil {
				t.Errorf("%s waits until %s is healthy, but nothing checks that", s.Name, name)
			}
		}
		// Our image has no shell and no client to ask with.
		if s.Image == ownImage && s.HealthCheck != nil {
			t.Errorf("%s has a health check that its image cannot run", s.Name)
		}
		if s.Image != ownImage && len(s.Volumes) == 0 {
			t.Errorf("%s keeps its data nowhere", s.Name)
		}
	}
}

package deploy_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/url"
	"os/exec"
	"path"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/compose-spec/compose-go/v2/types"
	"github.com/jackc/pgx/v5"

	"github.com/skald-saga/skald/internal/embedded"
	"github.com/skald-saga/skald/internal/testkit"
)

// installation is compose.yaml, run with the real programs on this machine: as
// its files say, but with addresses of this machine for those of containers.
type installation struct {
	t        *testing.T
	project  *types.Project
	postgres *embedded.Postgres
	nats     *embedded.NATS
	running  map[string]bool
	addrs    map[string]string // of a container's port "server:8080", here
}

// An order placed at what compose.yaml sets up ends: its command lines,
// environment, databases and dependencies fit together.
func TestAnOrderEndsInWhatComposeSetsUp(t *testing.T) {
	t.Parallel()
	in := &installation{
		t: t, project: compose(t), postgres: testkit.Cluster(t), nats: testkit.NATS(t), running: map[string]bool{}, addrs: map[string]string{},
	}
	in.initDatabases()
	for _, name := range slices.Backward(in.project.ServiceNames()) { // not an order in which it would work by itself
		in.start(name)
	}
	for _, probe := range []string{"server:9090/readyz", "relay:9091/readyz"} {
		addr, _, _ := strings.Cut(probe, "/")
		testkit.Eventually(t, probe, time.Minute, func() (bool, string) {
			status, body := request(t, http.MethodGet, "http://"+in.addrs[addr]+"/readyz", "")
			return status == http.StatusOK, body
		})
	}
	status, body := request(t, http.MethodPost, "http://"+in.addrs["server:8080"]+"/v1/orders", `{
		"customer_id": "c-42", "currency": "EUR", "payment_method": "pm_ok",
		"items": [{"sku": "book", "quantity": 1, "unit_price": "12.50"}]}`)
	if status != http.StatusAccepted && status != http.StatusOK {
		t.Fatalf("the order was answered with %d: %s", status, body)
	}
	var order struct{ ID, Status string }
	if err := json.Unmarshal([]byte(body), &order); err != nil {
		t.Fatal(err)
	}
	testkit.Eventually(t, "the order is confirmed", time.Minute, func() (bool, string) {
		_, body := request(t, http.MethodGet, "http://"+in.addrs["server:8080"]+"/v1/orders/"+order.ID, "")
		return json.Unmarshal([]byte(body), &order) == nil && order.Status == "confirmed", body
	})
}

func request(t *testing.T, method, url, body string) (int, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, err.Error()
	}
	defer func() { _ = res.Body.Close() }()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		return 0, err.Error()
	}
	return res.StatusCode, string(b)
}

// initDatabases does what the Postgres image does for its environment and the
// scripts that it is given.
func (in *installation) initDatabases() {
	in.t.Helper()
	pg := in.project.Services["postgres"]
	if err := embedded.CreateDatabase(in.t.Context(), in.postgres.URL("postgres"), in.env(pg, "POSTGRES_DB")); err != nil {
		in.t.Fatal(err)
	}
	conn, err := pgx.Connect(in.t.Context(), in.postgres.URL("postgres"))
	if err != nil {
		in.t.Fatal(err)
	}
	defer func() { _ = conn.Close(context.WithoutCancel(in.t.Context())) }()
	for _, c := range pg.Configs {
		if path.Dir(c.Target) != "/docker-entrypoint-initdb.d" || path.Ext(c.Target) != ".sql" {
			in.t.Fatalf("Postgres does not look for scripts at %s", c.Target)
		}
		if _, err := conn.Exec(in.t.Context(), in.project.Configs[c.Source].Content); err != nil {
			in.t.Fatalf("%s: %v", c.Source, err)
		}
	}
}

func (in *installation) env(s types.ServiceConfig, name string) string {
	in.t.Helper()
	v := s.Environment[name]
	if v == nil {
		in.t.Fatalf("%s has no %s", s.Name, name)
	}
	return *v
}

// start runs a service of ours after all that it depends on.
func (in *installation) start(name string) {
	in.t.Helper()
	s := in.project.Services[name]
	if in.running[name] || s.Image != ownImage {
		return
	}
	in.running[name] = true
	once := false
	for _, other := range in.project.Services {
		on, ok := other.DependsOn[name]
		once = once || (ok && on.Condition == types.ServiceConditionCompletedSuccessfully)
	}
	for on := range s.DependsOn {
		in.start(on)
	}
	cmd := in.command(s)
	log := &bytes.Buffer{}
	cmd.Stdout, cmd.Stderr = log, log
	if once {
		if err := cmd.Run(); err != nil {
			in.t.Fatalf("%s: %v\n%s", name, err, log)
		}
		return
	}
	if err := cmd.Start(); err != nil {
		in.t.Fatal(err)
	}
	in.t.Cleanup(func() { in.stop(cmd, s, log) })
}

// stop is `docker compose stop`: a service ends by itself when it is told to.
func (in *installation) stop(cmd *exec.Cmd, s types.ServiceConfig, log *bytes.Buffer) {
	ended := make(chan error, 1)
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		in.t.Errorf("%s has ended before it was told to: %v", s.Name, err)
	}
	go func() { ended <- cmd.Wait() }()
	select {
	case err := <-ended:
		if err != nil {
			in.t.Errorf("%s: %v", s.Name, err)
		}
	case <-time.After(grace(s)):
		_ = cmd.Process.Kill()
		<-ended
		in.t.Errorf("%s had to be killed", s.Name)
	}
	if in.t.Failed() {
		in.t.Logf("%s said:\n%s", s.Name, log)
	}
}

func grace(s types.ServiceConfig) time.Duration {
	if s.StopGracePeriod == nil {
		return 10 * time.Second // Docker's
	}
	return time.Duration(*s.StopGracePeriod)
}

// command is a service's program with its own arguments and environment, and
// nothing else.
func (in *installation) command(s types.ServiceConfig) *exec.Cmd {
	in.t.Helper()
	pkg := map[string]string{"/server": "cmd/server", "/relay": "cmd/relay", "/order": "examples/order"}[program(in.t, s.Entrypoint)]
	if pkg == "" {
		in.t.Fatalf("%s runs %v, which is none of ours", s.Name, s.Entrypoint)
	}
	var args []string
	if len(s.Entrypoint) > 0 {
		args = slices.Clone(s.Entrypoint[1:])
	}
	for _, arg := range s.Command {
		args = append(args, in.listenHere(s, arg))
	}
	cmd := exec.Command(testkit.Build(in.t, pkg), args...)
	for name := range s.Environment {
		cmd.Env = append(cmd.Env, name+"="+in.here(in.env(s, name)))
	}
	return cmd
}

// listenHere replaces a port that a container listens on by a free one.
func (in *installation) listenHere(s types.ServiceConfig, arg string) string {
	in.t.Helper()
	port, ok := strings.CutPrefix(arg, "0.0.0.0:")
	if !ok {
		return arg
	}
	if !slices.ContainsFunc(s.Ports, func(p types.ServicePortConfig) bool { return p.Published == port }) {
		in.t.Errorf("%s listens on port %s, which is not published", s.Name, port)
	}
	ln, err := new(net.ListenConfig).Listen(in.t.Context(), "tcp", "0.0.0.0:0")
	if err != nil {
		in.t.Fatal(err)
	}
	_, free, err := net.SplitHostPort(ln.Addr().String())
	if err = errors.Join(err, ln.Close()); err != nil {
		in.t.Fatal(err)
	}
	in.addrs[s.Name+":"+port] = "127.0.0.1:" + free
	return "0.0.0.0:" + free // all addresses, as in a container: the server has an opinion on that
}

// here replaces the URL of a container by that of the server that plays it, if
// user, password and port are those that the container has.
func (in *installation) here(value string) string {
	in.t.Helper()
	u, err := url.Parse(value)
	if err != nil {
		in.t.Fatal(err)
	}
	switch {
	case u.Scheme == "postgres" && u.Host == "postgres:5432":
		pg := in.project.Services["postgres"]
		if password, _ := u.User.Password(); u.User.Username() != in.env(pg, "POSTGRES_USER") || password != in.env(pg, "POSTGRES_PASSWORD") {
			in.t.Errorf("Postgres would refuse %s", value)
		}
		return in.postgres.URL(strings.TrimPrefix(u.Path, "/"))
	case u.Scheme == "nats" && u.Host == "nats:4222":
		return in.nats.URL()
	}
	in.t.Fatalf("no service is at %s", value)
	return ""
}

package embedded

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/url"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
)

// PostgresConfig describes a private cluster.
type PostgresConfig struct {
	Dir     string            // where to keep data; empty: in a temporary folder that Stop removes
	Addr    string            // host:port to listen on; port 0 picks a free one; default 127.0.0.1:0
	Durable bool              // false: no fsync, for data that nobody will miss after a power cut
	Params  map[string]string // further settings
	Log     *slog.Logger      // may be nil
}

// Postgres is a running private cluster. Its superuser is skald, with a random
// password that is part of every URL.
type Postgres struct {
	cfg       PostgresConfig
	bin       string
	data      string // the cluster's own folder
	host      string
	port      int
	password  string
	temporary bool

	mu      sync.Mutex
	process *os.Process
	exited  chan struct{} // closed when the process has ended
	log     *tail
}

// AddrInUseError says that the address to listen on is taken.
type AddrInUseError struct{ Addr string }

func (e *AddrInUseError) Error() string { return "address " + e.Addr + " is in use" }

const superuser = "skald"

// StartPostgres makes a cluster, unless Dir holds one already, and starts it.
// It returns when the cluster answers. Run by root, the cluster runs as the
// user postgres, or nobody. It ends with this process, even if that is killed.
func StartPostgres(ctx context.Context, cfg PostgresConfig) (*Postgres, error) {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Addr == "" {
		cfg.Addr = "127.0.0.1:0"
	}
	bin, err := FindPostgres(ctx)
	if err != nil {
		return nil, err
	}
	p := &Postgres{cfg: cfg, bin: bin}
	if p.host, p.port, err = listenAddr(cfg.Addr); err != nil {
		return nil, err
	}
	if err := p.prepare(ctx); err != nil {
		return nil, errors.Join(err, p.discard())
	}
	if err := p.Start(ctx); err != nil {
		return nil, errors.Join(err, p.discard())
	}
	return p, nil
}

// listenAddr resolves port 0 and finds out early whether the port is taken.
func listenAddr(addr string) (host string, port int, err error) {
	ln, err := net.Listen("tcp", addr)
	if errors.Is(err, syscall.EADDRINUSE) {
		return "", 0, &AddrInUseError{Addr: addr}
	}
	if err != nil {
		return "", 0, err
	}
	defer func() { _ = ln.Close() }()
	a, ok := ln.Addr().(*net.TCPAddr)
	if !ok {
		return "", 0, fmt.Errorf("address %s is not TCP", addr)
	}
	return a.IP.String(), a.Port, nil
}

// prepare makes the folders and, if there is none, the cluster.
func (p *Postgres) prepare(ctx context.Context) error {
	dir := p.cfg.Dir
	if dir == "" {
		SweepStale()
		var err error
		if dir, err = makeTemp(); err != nil {
			return err
		}
		p.temporary = true
	}
	dir, err := filepath.Abs(dir)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil { //nolint:gosec // the unprivileged user must get in
		return err
	}
	p.data = filepath.Join(dir, "data")
	if err := reachable(dir); err != nil {
		return err
	}
	secret := filepath.Join(dir, "password")
	if _, err := os.Stat(filepath.Join(p.data, "PG_VERSION")); err == nil {
		b, err := os.ReadFile(secret)
		if err != nil {
			return fmt.Errorf("read password of the cluster in %s: %w", dir, err)
		}
		p.password = strings.TrimSpace(string(b))
		return p.awaitPredecessor(ctx)
	}
	p.password = randomPassword()
	if err := os.WriteFile(secret, []byte(p.password+"\n"), 0o600); err != nil {
		return err
	}
	if err := os.RemoveAll(p.data); err != nil { // left by an initdb that was cut short
		return err
	}
	if err := os.Mkdir(p.data, 0o700); err != nil {
		return err
	}
	if err := giveAway(p.data, secret); err != nil {
		return err
	}
	return p.initdb(ctx, secret)
}

func (p *Postgres) initdb(ctx context.Context, secret string) error {
	cmd := exec.CommandContext(ctx, filepath.Join(p.bin, "initdb"), "-D", p.data, "-U", superuser, "-A", "scram-sha-256",
		"--pwfile", secret, "-E", "UTF8", "--no-locale", "--no-instructions")
	if !p.cfg.Durable {
		cmd.Args = append(cmd.Args, "--no-sync")
	}
	p.dress(cmd)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("initdb: %w: %s", err, lastLine(out))
	}
	return nil
}

// dress gives a command the user, folder and environment that Postgres needs.
func (p *Postgres) dress(cmd *exec.Cmd) {
	cmd.Dir = p.data
	cmd.Env = []string{"LC_ALL=C", "TZ=UTC", "PATH=" + os.Getenv("PATH")}
	cmd.SysProcAttr = processAttributes()
}

// Start starts a cluster that was stopped or killed, on the same port, and
// returns when it answers.
func (p *Postgres) Start(ctx context.Context) error {
	settings := map[string]string{
		"listen_addresses": p.host, "port": strconv.Itoa(p.port), "unix_socket_directories": "",
		"max_connections": "200", "shared_buffers": "256MB", "max_wal_size": "4GB", "logging_collector": "off",
		"log_min_messages": "warning", "timezone": "UTC", "jit": "off",
	}
	if !p.cfg.Durable {
		maps.Copy(settings, map[string]string{"fsync": "off", "full_page_writes": "off"})
	}
	maps.Copy(settings, p.cfg.Params)
	args := []string{"-D", p.data}
	for _, name := range slices.Sorted(maps.Keys(settings)) {
		args = append(args, "-c", name+"="+settings[name])
	}
	cmd := exec.Command(filepath.Join(p.bin, "postgres"), args...) //nolint:noctx // it outlives ctx, which bounds only the start
	p.dress(cmd)
	log := &tail{}
	cmd.Stdout, cmd.Stderr = log, log
	exited := make(chan struct{})
	started := make(chan error, 1)
	go func() {
		// The signal that ends Postgres when we die is sent when the *thread*
		// that forked it ends, so this one lives as long as Postgres does.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			_ = cmd.Wait()
		}
		close(exited)
	}()
	if err := <-started; err != nil {
		return fmt.Errorf("start postgres: %w", err)
	}
	p.mu.Lock()
	p.process, p.exited, p.log = cmd.Process, exited, log
	p.mu.Unlock()
	if err := p.awaitReady(ctx, exited, log); err != nil {
		p.signal(syscall.SIGQUIT)
		<-exited
		return err
	}
	return nil
}

func (p *Postgres) awaitReady(ctx context.Context, exited <-chan struct{}, log *tail) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for {
		conn, err := pgx.Connect(ctx, p.URL("postgres"))
		if err == nil {
			return conn.Close(ctx)
		}
		select {
		case <-exited:
			return fmt.Errorf("postgres ended while starting: %s", lastLine(log.bytes()))
		case <-ctx.Done():
			return fmt.Errorf("postgres did not answer: %w", err)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// URL is how to reach a database of the cluster.
func (p *Postgres) URL(database string) string {
	u := url.URL{
		Scheme: "postgres", User: url.UserPassword(superuser, p.password),
		Host: net.JoinHostPort(p.host, strconv.Itoa(p.port)), Path: "/" + database, RawQuery: "sslmode=disable",
	}
	return u.String()
}

// CreateDatabase makes a database unless there is one of that name. The name
// must be a plain identifier.
func CreateDatabase(ctx context.Context, serverURL, name string) error {
	conn, err := pgx.Connect(ctx, serverURL)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
	var exists bool
	if err := conn.QueryRow(ctx, `SELECT EXISTS (SELECT FROM pg_database WHERE datname = $1)`, name).Scan(&exists); err != nil || exists {
		return err
	}
	if _, err := conn.Exec(ctx, `CREATE DATABASE `+pgx.Identifier{name}.Sanitize()); err != nil {
		return fmt.Errorf("create database %s: %w", name, err)
	}
	return nil
}

// DatabaseURL is the URL of another database on the server of serverURL.
func DatabaseURL(serverURL, name string) (string, error) {
	u, err := url.Parse(serverURL)
	if err != nil {
		return "", errors.New("not a database URL") // the reason may quote the password
	}
	u.Path = "/" + name
	return u.String(), nil
}

// Stop shuts the cluster down (a fast shutdown: connections are ended, data is
// flushed) and removes a temporary folder. Stopping twice is harmless.
func (p *Postgres) Stop() error {
	p.signal(syscall.SIGINT)
	select {
	case <-p.gone():
	case <-time.After(30 * time.Second):
		p.signal(syscall.SIGQUIT)
		<-p.gone()
	}
	return p.discard()
}

// Kill stops the cluster as a crash would: at once, without flushing. Start
// brings it back, through crash recovery.
func (p *Postgres) Kill() {
	p.signal(syscall.SIGQUIT)
	<-p.gone()
}

// Log returns the last lines that the cluster wrote.
func (p *Postgres) Log() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return string(p.log.bytes())
}

func (p *Postgres) gone() <-chan struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.exited
}

func (p *Postgres) signal(s syscall.Signal) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.process != nil {
		_ = p.process.Signal(s) // gone already: nothing to stop
	}
}

func (p *Postgres) discard() error {
	if !p.temporary || p.data == "" {
		return nil
	}
	return os.RemoveAll(filepath.Dir(p.data))
}

// awaitPredecessor waits for a cluster on the same folder whose owner was
// killed a moment ago: it is still shutting down.
func (p *Postgres) awaitPredecessor(ctx context.Context) error {
	pidFile := filepath.Join(p.data, "postmaster.pid")
	deadline := time.Now().Add(15 * time.Second)
	for {
		b, err := os.ReadFile(pidFile)
		if err != nil {
			return nil // there is none
		}
		line, _, _ := bytes.Cut(b, []byte("\n"))
		pid, err := strconv.Atoi(string(bytes.TrimSpace(line)))
		if err != nil || syscall.Kill(pid, 0) != nil {
			return nil // it crashed: the new one finds that out too
		}
		inUse := fmt.Sprintf("the cluster in %s is in use by process %d", filepath.Dir(p.data), pid)
		if time.Now().After(deadline) {
			return errors.New(inUse)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s: %w", inUse, ctx.Err())
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// tail keeps the end of what is written to it.
type tail struct {
	mu  sync.Mutex
	buf []byte
}

var _ io.Writer = (*tail)(nil)

func (t *tail) Write(b []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.buf = append(t.buf, b...)
	if over := len(t.buf) - 16<<10; over > 0 {
		t.buf = append(t.buf[:0], t.buf[over:]...)
	}
	return len(b), nil
}

func (t *tail) bytes() []byte {
	t.mu.Lock()
	defer t.mu.Unlock()
	return bytes.Clone(t.buf)
}

func lastLine(b []byte) string {
	lines := strings.Split(strings.TrimSpace(string(b)), "\n")
	return lines[len(lines)-1]
}

// unprivileged is the user that Postgres runs as when we are root, which it
// refuses.
func unprivileged() (uid, gid int, ok bool) {
	if os.Geteuid() != 0 {
		return 0, 0, false
	}
	for _, name := range []string{"postgres", "nobody"} {
		u, err := user.Lookup(name)
		if err != nil {
			continue
		}
		uid, err1 := strconv.Atoi(u.Uid)
		gid, err2 := strconv.Atoi(u.Gid)
		if err1 == nil && err2 == nil {
			return uid, gid, true
		}
	}
	return 65534, 65534, true
}

func giveAway(paths ...string) error {
	uid, gid, ok := unprivileged()
	if !ok {
		return nil
	}
	for _, path := range paths {
		if err := os.Chown(path, uid, gid); err != nil {
			return err
		}
	}
	return nil
}

// reachable checks that the unprivileged user can get to dir: below a home
// folder of mode 0700 it cannot.
func reachable(dir string) error {
	if _, _, ok := unprivileged(); !ok {
		return nil
	}
	for at := dir; ; at = filepath.Dir(at) {
		info, err := os.Stat(at)
		if err != nil {
			return err
		}
		if info.Mode().Perm()&0o001 == 0 {
			return fmt.Errorf("%s cannot be entered by the unprivileged user that Postgres runs as when the caller is root: choose another data folder", at)
		}
		if at == filepath.Dir(at) {
			return nil
		}
	}
}

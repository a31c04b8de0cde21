package embedded

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
)

// Standby makes a standby of a cluster, for tests of a failover: the cluster is
// stopped, copied and started again, and the copy follows it. Its URL takes
// queries; `SELECT pg_promote()` makes a primary of it.
func (p *Postgres) Standby(ctx context.Context) (*Postgres, error) {
	dir, err := makeTemp()
	if err != nil {
		return nil, err
	}
	s := &Postgres{cfg: p.cfg, bin: p.bin, data: filepath.Join(dir, "data"), password: p.password, temporary: true}
	if s.host, s.port, err = listenAddr("127.0.0.1:0"); err != nil {
		return nil, errors.Join(err, s.discard())
	}
	p.Kill()
	if out, err := exec.CommandContext(ctx, "cp", "-a", p.data, s.data).CombinedOutput(); err != nil {
		return nil, errors.Join(fmt.Errorf("copy the cluster: %w: %s", err, out), s.discard())
	}
	if err := p.Start(ctx); err != nil {
		return nil, errors.Join(err, s.discard())
	}
	signal := filepath.Join(s.data, "standby.signal")
	if err := errors.Join(os.WriteFile(signal, nil, 0o600), giveAway(signal)); err != nil {
		return nil, errors.Join(err, s.discard())
	}
	s.cfg.Params = maps.Clone(p.cfg.Params)
	if s.cfg.Params == nil {
		s.cfg.Params = map[string]string{}
	}
	s.cfg.Params["primary_conninfo"] = fmt.Sprintf("host=%s port=%d user=%s password=%s", p.host, p.port, superuser, p.password)
	if err := s.Start(ctx); err != nil {
		return nil, errors.Join(err, s.discard())
	}
	return s, nil
}

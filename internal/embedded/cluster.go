package embedded

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"strconv"
	"strings"

	"github.com/nats-io/nats-server/v2/server"
)

// NATSCluster is a JetStream cluster in this process. Its servers can be halted
// and started again one by one.
type NATSCluster struct{ Servers []*NATS }

// StartNATSCluster starts a cluster of n servers. It returns when all take
// connections, which is before they have elected anybody.
func StartNATSCluster(n int, cfg NATSConfig) (*NATSCluster, error) {
	c := &NATSCluster{}
	var routes []*url.URL
	for i := range n {
		s, err := newNATS(cfg)
		if err != nil {
			return nil, errors.Join(err, c.Stop())
		}
		c.Servers = append(c.Servers, s)
		host, port, err := listenAddr("127.0.0.1:0")
		if err != nil {
			return nil, errors.Join(err, c.Stop())
		}
		s.name = "skald-" + strconv.Itoa(i+1)
		s.cluster = server.ClusterOpts{Name: "skald", Host: host, Port: port}
		routes = append(routes, &url.URL{Scheme: "nats", Host: net.JoinHostPort(host, strconv.Itoa(port))})
	}
	for _, s := range c.Servers {
		s.routes = routes
		if err := s.Start(); err != nil {
			return nil, errors.Join(err, c.Stop())
		}
	}
	return c, nil
}

// URL names all servers.
func (c *NATSCluster) URL() string {
	urls := make([]string, len(c.Servers))
	for i, s := range c.Servers {
		urls[i] = s.URL()
	}
	return strings.Join(urls, ",")
}

// Server returns the server of that name, which is how JetStream names the
// leader of a stream.
func (c *NATSCluster) Server(name string) (*NATS, error) {
	for _, s := range c.Servers {
		if s.name == name {
			return s, nil
		}
	}
	return nil, fmt.Errorf("no server %q", name)
}

// Stop stops all servers.
func (c *NATSCluster) Stop() error {
	var errs []error
	for _, s := range c.Servers {
		errs = append(errs, s.Stop())
	}
	return errors.Join(errs...)
}

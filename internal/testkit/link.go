package testkit

import (
	"errors"
	"io"
	"net"
	"net/url"
	"sync"
	"testing"
)

// Link is a way to a server that can be cut, as networks are.
type Link struct {
	URL string // of the server, by this way

	mu    sync.Mutex
	conns []net.Conn
}

// NewLink opens a way to the server of a URL; it closes when the test ends.
func NewLink(t testing.TB, server string) *Link {
	t.Helper()
	u, err := url.Parse(server)
	if err != nil {
		t.Fatal(err)
	}
	target := u.Host
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	u.Host = ln.Addr().String()
	l := &Link{URL: u.String()}
	t.Cleanup(func() {
		_ = ln.Close()
		l.Cut()
	})
	go func() {
		for {
			client, err := ln.Accept()
			if err != nil {
				return
			}
			server, err := net.Dial("tcp", target)
			if err != nil {
				_ = client.Close() // the server is away
				continue
			}
			l.mu.Lock()
			l.conns = append(l.conns, client, server)
			l.mu.Unlock()
			go carry(server, client)
			go carry(client, server)
		}
	}()
	return l
}

func carry(to, from net.Conn) {
	_, _ = io.Copy(to, from)
	_ = errors.Join(to.Close(), from.Close())
}

// Cut ends all connections, whatever is under way on them. New ones can be
// made.
func (l *Link) Cut() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, c := range l.conns {
		_ = c.Close()
	}
	l.conns = nil
}

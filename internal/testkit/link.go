package testkit

import (
	"errors"
	"io"
	"net"
	"net/url"
	"sync"
	"sync/atomic"
	"testing"
)

// Link is a way to a server that can be cut, as networks are, or lets nothing
// through.
type Link struct {
	URL  string      // of the server, by this way
	Mute atomic.Bool // what the server says is lost
	Deaf atomic.Bool // what is said to the server is lost

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
			go carry(server, client, &l.Deaf)
			go carry(client, server, &l.Mute)
		}
	}()
	return l
}

func carry(to, from net.Conn, lost *atomic.Bool) {
	_, _ = io.Copy(sieve{to, lost}, from)
	_ = errors.Join(to.Close(), from.Close())
}

// sieve swallows what is lost.
type sieve struct {
	to   io.Writer
	lost *atomic.Bool
}

func (s sieve) Write(b []byte) (int, error) {
	if s.lost.Load() {
		return len(b), nil
	}
	return s.to.Write(b)
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

package program

import (
	"crypto/tls"
	"crypto/x509"
	"net/url"
	"os"
	"slices"
	"strings"

	"github.com/nats-io/nats.go"
)

// NATSFlags say which NATS, and who we are there.
type NATSFlags struct {
	NATSURL string `name:"nats-url" help:"NATS servers, joined by commas; user and password may be part of the URL." env:"NATS_URL" default:"nats://127.0.0.1:4222"`
	NATSCredentials
}

// Options returns how to connect, checked.
func (f NATSFlags) Options() ([]nats.Option, error) {
	if err := CheckNATSURL(f.NATSURL); err != nil {
		return nil, err
	}
	return f.NATSCredentials.Options(f.NATSURL)
}

// NATSCredentials say who we are. All secrets come from files; they are read
// again for each connection, so that they can be renewed while we run.
type NATSCredentials struct {
	NATSUser         string `name:"nats-user" help:"User at NATS." env:"NATS_USER" placeholder:"NAME"`
	NATSPasswordFile string `name:"nats-password-file" help:"A file that holds the user's password." env:"NATS_PASSWORD_FILE" placeholder:"PATH"`
	NATSTokenFile    string `name:"nats-token-file" help:"A file that holds a token." env:"NATS_TOKEN_FILE" placeholder:"PATH"`
	NATSNkeyFile     string `name:"nats-nkey-file" help:"A file that holds the seed of a user's nkey." env:"NATS_NKEY_FILE" placeholder:"PATH"`
	NATSCredsFile    string `name:"nats-creds-file" help:"A .creds file: a user's JWT and seed." env:"NATS_CREDS_FILE" placeholder:"PATH"`
	NATSTLSCA        string `name:"nats-tls-ca" help:"Certificates, as PEM, that the server's must be signed by." env:"NATS_TLS_CA" placeholder:"PATH"`
	NATSTLSCert      string `name:"nats-tls-cert" help:"Our own certificate, as PEM." env:"NATS_TLS_CERT" placeholder:"PATH"`
	NATSTLSKey       string `name:"nats-tls-key" help:"The key of our certificate, as PEM." env:"NATS_TLS_KEY" placeholder:"PATH"`
}

// Options returns how to connect to servers, which may name a user themselves.
func (c NATSCredentials) Options(servers string) ([]nats.Option, error) {
	who, err := c.identity(servers)
	if err != nil {
		return nil, err
	}
	secure, err := c.tls()
	return slices.Concat(who, secure), err
}

// identity is who we are, in one of the ways that there are.
func (c NATSCredentials) identity(servers string) ([]nats.Option, error) {
	var ways []string
	for _, w := range []struct {
		flag  string
		given bool
	}{
		{"a user in --nats-url", strings.Contains(servers, "@")},
		{"--nats-user", c.NATSUser != ""}, {"--nats-token-file", c.NATSTokenFile != ""},
		{"--nats-nkey-file", c.NATSNkeyFile != ""}, {"--nats-creds-file", c.NATSCredsFile != ""},
	} {
		if w.given {
			ways = append(ways, w.flag)
		}
	}
	switch {
	case len(ways) > 1:
		return nil, Usagef("%s cannot all be given", strings.Join(ways, " and "))
	case (c.NATSUser == "") != (c.NATSPasswordFile == ""):
		return nil, Usagef("--nats-user and --nats-password-file need each other")
	case c.NATSUser != "":
		password, err := secretFile("--nats-password-file", c.NATSPasswordFile)
		return []nats.Option{nats.UserInfoHandler(func() (string, string) { return c.NATSUser, password() })}, err
	case c.NATSTokenFile != "":
		token, err := secretFile("--nats-token-file", c.NATSTokenFile)
		return []nats.Option{nats.TokenHandler(token)}, err
	case c.NATSNkeyFile != "":
		return nkey(c.NATSNkeyFile)
	case c.NATSCredsFile != "":
		return creds(c.NATSCredsFile)
	}
	return nil, nil
}

// secretFile returns what reads a secret. If the file cannot be read later, the
// secret is what it was.
func secretFile(flag, path string) (read func() string, err error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, Usagef("%s: %w", flag, err)
	}
	last := strings.TrimSpace(string(b))
	if last == "" {
		return nil, Usagef("%s: %s is empty", flag, path)
	}
	return func() string { // called by one connection, which makes one attempt at a time
		if b, err := os.ReadFile(path); err == nil {
			last = strings.TrimSpace(string(b))
		}
		return last
	}, nil
}

func nkey(path string) ([]nats.Option, error) {
	if _, err := secretFile("--nats-nkey-file", path); err != nil {
		return nil, err
	}
	o, err := nats.NkeyOptionFromSeed(path)
	if err != nil {
		return nil, Usagef("--nats-nkey-file: %s does not hold the seed of a user", path) // the reason may quote it
	}
	return []nats.Option{o}, nil
}

func creds(path string) ([]nats.Option, error) {
	if _, err := secretFile("--nats-creds-file", path); err != nil {
		return nil, err
	}
	var o nats.Options
	err := nats.UserCredentials(path)(&o)
	if err == nil {
		_, err = o.UserJWT()
	}
	if err == nil {
		_, err = o.SignatureCB([]byte("nonce"))
	}
	if err != nil {
		return nil, Usagef("--nats-creds-file: %s does not hold a JWT and a seed", path) // the reason may quote them
	}
	return []nats.Option{nats.UserCredentials(path)}, nil
}

// tls is how we know the server, and how it knows us.
func (c NATSCredentials) tls() (options []nats.Option, err error) {
	if (c.NATSTLSCert == "") != (c.NATSTLSKey == "") {
		return nil, Usagef("--nats-tls-cert and --nats-tls-key need each other")
	}
	if c.NATSTLSCA != "" {
		pem, err := os.ReadFile(c.NATSTLSCA)
		if err != nil {
			return nil, Usagef("--nats-tls-ca: %w", err)
		}
		if !x509.NewCertPool().AppendCertsFromPEM(pem) {
			return nil, Usagef("--nats-tls-ca: no certificate in %s", c.NATSTLSCA)
		}
		options = append(options, nats.RootCAs(c.NATSTLSCA))
	}
	if c.NATSTLSCert != "" {
		if _, err := tls.LoadX509KeyPair(c.NATSTLSCert, c.NATSTLSKey); err != nil {
			return nil, Usagef("--nats-tls-cert, --nats-tls-key: %w", err)
		}
		options = append(options, nats.ClientCert(c.NATSTLSCert, c.NATSTLSKey))
	}
	return options, nil
}

// CheckNATSURL refuses what is not a list of NATS servers.
func CheckNATSURL(servers string) error {
	for server := range strings.SplitSeq(servers, ",") {
		server = strings.TrimSpace(server)
		if !strings.Contains(server, "://") {
			server = "nats://" + server
		}
		u, err := url.Parse(server)
		if err != nil || u.Hostname() == "" || !slices.Contains([]string{"nats", "tls", "ws", "wss"}, u.Scheme) {
			return Usagef("--nats-url: want nats://host:port, or several joined by commas") // the reason may quote the password
		}
	}
	return nil
}

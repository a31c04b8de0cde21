package bench

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
)

// skus is how many articles the orders are spread over, so that it is not one
// article's row that is measured.
const skus = 1000

// request is one kind of request, written once. What differs from one to the
// next has a fixed width and is overwritten in place.
type request struct {
	bytes    []byte
	key, sku int    // where the ten digits of the idempotency key are, and the four of the article; -1: nowhere
	want     []byte // what the body of the answer must hold
}

const (
	keyDigits = "kkkkkkkkkk"
	skuDigits = "ssss"
)

// orderOf is a request for an order of one article that must end with status.
// sku may hold skuDigits.
func orderOf(sku, status string) request {
	return newRequest("/v1/orders", `{"customer_id":"c-42","currency":"EUR","payment_method":"pm_ok",`+
		`"items":[{"sku":"`+sku+`","quantity":1,"unit_price":"12.50"}]}`, status)
}

// sagaOf is a request for a saga whose input has so many bytes of data.
func sagaOf(definition string, data int) request {
	return newRequest("/v1/sagas", `{"definition":"`+definition+`","input":{"data":"`+strings.Repeat("x", data)+`"}}`, "completed")
}

func newRequest(path, body, status string) request {
	text := fmt.Sprintf("POST %s HTTP/1.1\r\nHost: bench\r\nContent-Type: application/json\r\nPrefer: wait=30\r\n"+
		"Idempotency-Key: bench-%s\r\nContent-Length: %d\r\n\r\n%s", path, keyDigits, len(body), body)
	return request{
		bytes: []byte(text), key: strings.Index(text, keyDigits), sku: strings.Index(text, skuDigits),
		want: []byte(`"status":"` + status + `"`),
	}
}

// number makes it the n-th.
func (r request) number(n int64) {
	digits(r.bytes[r.key:r.key+len(keyDigits)], n)
	if r.sku >= 0 {
		digits(r.bytes[r.sku:r.sku+len(skuDigits)], n%skus)
	}
}

func digits(into []byte, n int64) {
	for i := len(into) - 1; i >= 0; i-- {
		into[i] = byte('0' + n%10)
		n /= 10
	}
}

// client is one keep-alive connection. It understands no more of HTTP than the
// server speaks: it shares the processor with what it measures.
type client struct {
	conn net.Conn
	in   *bufio.Reader
	req  request
	body []byte
}

func dial(addr string, r request) (*client, error) {
	conn, err := net.Dial("tcp", addr) //nolint:noctx // on this machine
	if err != nil {
		return nil, err
	}
	r.bytes = bytes.Clone(r.bytes)
	return &client{conn: conn, in: bufio.NewReaderSize(conn, 2048), req: r}, nil
}

// do sends the n-th request, and returns once its saga has ended as it must.
func (c *client) do(n int64) error {
	c.req.number(n)
	if _, err := c.conn.Write(c.req.bytes); err != nil {
		return err
	}
	status, err := c.answer()
	switch {
	case err != nil:
		return err
	case status != 200:
		return fmt.Errorf("the answer was %d: %s", status, c.body)
	case !bytes.Contains(c.body, c.req.want):
		return fmt.Errorf("the answer has no %s: %s", c.req.want, c.body)
	}
	return nil
}

var errNotHTTP = errors.New("the answer is not the HTTP that was expected")

// answer reads one answer; its body is then in c.body.
func (c *client) answer() (status int, err error) {
	line, err := c.in.ReadSlice('\n')
	if err != nil {
		return 0, err
	}
	if len(line) < 12 {
		return 0, errNotHTTP
	}
	if status, err = strconv.Atoi(string(line[9:12])); err != nil {
		return 0, errNotHTTP
	}
	length := -1
	for {
		if line, err = c.in.ReadSlice('\n'); err != nil {
			return 0, err
		}
		if line = bytes.TrimRight(line, "\r\n"); len(line) == 0 {
			break
		}
		const name = "Content-Length: "
		if len(line) > len(name) && bytes.EqualFold(line[:len(name)], []byte(name)) {
			if length, err = strconv.Atoi(string(line[len(name):])); err != nil {
				return 0, errNotHTTP
			}
		}
	}
	c.body = c.body[:0]
	if length >= 0 {
		return status, c.more(length)
	}
	return status, c.chunks()
}

func (c *client) more(n int) error {
	had := len(c.body)
	c.body = append(c.body, make([]byte, n)...)
	_, err := io.ReadFull(c.in, c.body[had:])
	return err
}

func (c *client) chunks() error {
	for {
		line, err := c.in.ReadSlice('\n')
		if err != nil {
			return err
		}
		n, err := strconv.ParseInt(string(bytes.TrimSpace(line)), 16, 32)
		if err != nil {
			return errNotHTTP
		}
		if err := c.more(int(n)); err != nil {
			return err
		}
		if _, err := c.in.Discard(2); err != nil || n == 0 {
			return err
		}
	}
}

// without is the request without a line of its header.
func (r request) without(line string) request {
	r.bytes = bytes.Replace(r.bytes, []byte(line), nil, 1)
	r.key, r.sku = bytes.Index(r.bytes, []byte(keyDigits)), bytes.Index(r.bytes, []byte(skuDigits))
	return r
}

package http

import (
	"encoding/base64"
	"errors"
	"net/url"
	"testing"

	"github.com/google/uuid"
)

// What is taken as a cursor is one that this very list has given: it names the
// row that it came from and is written again as it was. All else is refused as
// the client's mistake.
func FuzzCursor(f *testing.F) {
	id := uuid.UUID{0: 1, 15: 7}
	list := func(status string) page { return page{path: "/v1/sagas", filter: url.Values{"status": {status}}} }
	for _, cursor := range []string{
		list("stuck").cursor(id), list("").cursor(id), list("stuck").cursor(id) + "=", "", "AAAA", "*", "A\n",
		base64.StdEncoding.EncodeToString(append(id[:], "abcdefgh"...)), base64.RawURLEncoding.EncodeToString(make([]byte, 25)),
	} {
		f.Add("stuck", cursor)
	}
	f.Fuzz(func(t *testing.T, status, cursor string) {
		want := list(status)
		p, err := newPage(want.path, want.filter, nil, &cursor)
		if err != nil {
			var refusal *failure
			if !errors.As(err, &refusal) || problemTypes[refusal.code].status != 400 {
				t.Fatalf("%q is refused with %v, which is not a client's mistake", cursor, err)
			}
			return
		}
		if again := want.cursor(p.before); again != cursor {
			t.Errorf("%q was taken, and is written %q", cursor, again)
		}
		if other := list(status + "x"); other.cursor(p.before) == cursor {
			t.Errorf("%q belongs to two lists", cursor)
		}
	})
}

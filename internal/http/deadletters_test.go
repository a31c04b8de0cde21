package http_test

import (
	"encoding/json"
	"fmt"
	stdhttp "net/http"
	"slices"
	"testing"

	"github.com/google/uuid"

	"github.com/skald-saga/skald/internal/coordinator"
	"github.com/skald-saga/skald/internal/http/api"
	"github.com/skald-saga/skald/internal/wire"
)

// bury lets replies become dead letters.
func (s *service) bury(deliveries ...coordinator.Delivery) {
	s.t.Helper()
	if err := s.sagas.HandleReplies(s.t.Context(), deliveries); err != nil {
		s.t.Fatal(err)
	}
}

// unreadable is a reply to a command of a saga that cannot be read.
func unreadable(id uuid.UUID) coordinator.Delivery {
	h := wire.Reply{EffectID: wire.EffectID{Saga: id.String(), Step: "reserve-stock", Phase: wire.Action, Generation: 1}, Outcome: "done"}.Header()
	_, err := wire.DecodeReply(h, nil)
	return coordinator.Delivery{Err: err, Subject: "skald.reply.0", Headers: h, Body: []byte{0xff, 0}}
}

// deadMessage is a message of the outbox that NATS does not take.
func (s *service) deadMessage(id uuid.UUID) string {
	s.t.Helper()
	var seq int64
	const q = `
		INSERT INTO outbox_dead (seq, lane, key, msg_id, subject, headers, payload, created_at, error)
		VALUES (nextval('outbox_seq'), 0, $1, gen_random_uuid(), 'skald.cmd.inventory.reserve', '{}', '{"n": 1}', now(), 'too large') RETURNING seq`
	if err := s.pool.QueryRow(s.t.Context(), q, id.String()).Scan(&seq); err != nil {
		s.t.Fatal(err)
	}
	return fmt.Sprintf("outbox-%d", seq)
}

func TestDeadLettersOfBothKindsAreInOneList(t *testing.T) {
	t.Parallel()
	s := newService(t)
	id := s.place().Id
	s.bury(unreadable(id), unreadable(id))
	message := s.deadMessage(id)
	var seen []string
	for path := "/v1/dead-letters?limit=1"; path != ""; {
		a := s.do("GET", path, "")
		l := decode[api.DeadLetterList](t, a, stdhttp.StatusOK)
		for _, letter := range l.Items {
			seen = append(seen, letter.Id)
		}
		if path = ""; l.HasMore {
			path = a.next(t)
		}
	}
	if want := []string{message, "reply-2", "reply-1"}; !slices.Equal(seen, want) {
		t.Errorf("the list is %v, want %v", seen, want)
	}
	if l := decode[api.DeadLetterList](t, s.do("GET", "/v1/dead-letters?source=outbox", ""), stdhttp.StatusOK); len(l.Items) != 1 || *l.Items[0].SagaId != id.String() {
		t.Errorf("of the outbox are %+v", l.Items)
	}
	l := decode[api.DeadLetter](t, s.do("GET", "/v1/dead-letters/reply-1", ""), stdhttp.StatusOK)
	if l.Body != nil || *l.BodyBase64 != "/wA=" || l.Headers == nil || l.Reason == "" || l.Bytes != 2 {
		t.Errorf("the reply is %+v", l)
	}
	if l := decode[api.DeadLetter](t, s.do("GET", "/v1/dead-letters/"+message, ""), stdhttp.StatusOK); *l.Body != `{"n": 1}` || l.Reason != "too large" {
		t.Errorf("the message is %+v", l)
	}
	if a := s.do("DELETE", "/v1/dead-letters/reply-1", ""); a.status != stdhttp.StatusNoContent {
		t.Errorf("deleting gives %d", a.status)
	}
	for _, gone := range []string{"reply-1", "outbox-999"} {
		for _, request := range [][2]string{{"GET", ""}, {"DELETE", ""}, {"POST", "/redrive"}} {
			if a := s.do(request[0], "/v1/dead-letters/"+gone+request[1], ""); a.status != stdhttp.StatusNotFound {
				t.Errorf("%s of %s%s gives %d", request[0], gone, request[1], a.status)
			}
		}
	}
}

func TestARedrivenReplyCountsAsIfItHadJustCome(t *testing.T) {
	t.Parallel()
	s := newService(t)
	id, late := s.place().Id, uuid.New()
	good := wire.Reply{EffectID: wire.EffectID{Saga: late.String(), Step: "reserve-stock", Phase: wire.Action, Generation: 1}, Outcome: wire.Succeeded, Body: json.RawMessage(`{"id": "r-9"}`)}
	s.bury(unreadable(id), coordinator.Delivery{Reply: good, Headers: good.Header(), Body: good.Payload()})
	for _, letter := range []string{"reply-1", "reply-2"} { // one cannot be read, one answers no saga
		p := decode[api.Problem](t, s.do("POST", "/v1/dead-letters/"+letter+"/redrive", `{}`), stdhttp.StatusConflict)
		if p.Code != api.ProblemCodeStillDead || p.Detail == nil {
			t.Errorf("%s: %+v", letter, p)
		}
	}
	// Its saga turns up: as after a restore.
	if _, err := s.pool.Exec(t.Context(), `UPDATE dead_letter SET headers = replace(headers::text, $1, $2)::json`, late.String(), id.String()); err != nil {
		t.Fatal(err)
	}
	if r := decode[api.Redriven](t, s.do("POST", "/v1/dead-letters/reply-2/redrive", `{"reason": "restored"}`), stdhttp.StatusOK); r.Outcome != "applied" {
		t.Errorf("redriven: %+v", r)
	}
	if v := s.saga(id); v.Steps[0].Status != api.StepStatusSucceeded {
		t.Errorf("the step is %s", v.Steps[0].Status)
	}
	l := decode[api.DeadLetterList](t, s.do("GET", "/v1/dead-letters", ""), stdhttp.StatusOK)
	if len(l.Items) != 1 || l.Items[0].Id != "reply-1" {
		t.Errorf("left are %+v", l.Items)
	}
}

func TestARedrivenMessageIsInTheOutboxAgain(t *testing.T) {
	t.Parallel()
	s := newService(t)
	id := s.place().Id
	letter := s.deadMessage(id)
	if o := decode[api.Outbox](t, s.do("GET", "/v1/outbox", ""), stdhttp.StatusOK); o.Pending != 1 || o.Dead != 1 || o.Oldest == nil || len(o.Lanes) == 0 {
		t.Errorf("the outbox is %+v", o)
	}
	if r := decode[api.Redriven](t, s.do("POST", "/v1/dead-letters/"+letter+"/redrive", ``), stdhttp.StatusOK); r.Outcome != "sent" {
		t.Errorf("redriven: %+v", r)
	}
	if o := decode[api.Outbox](t, s.do("GET", "/v1/outbox", ""), stdhttp.StatusOK); o.Pending != 2 || o.Dead != 0 {
		t.Errorf("the outbox is %+v", o)
	}
	if got := s.did(map[string][]string{"action": {"redrive"}}); len(got) != 1 {
		t.Errorf("the audit log has %v", got)
	}
}

func TestAReplyOverHTTPCountsLikeAnyOther(t *testing.T) {
	t.Parallel()
	s := newService(t)
	id := s.place().Id
	give := func(step, rest string) answer {
		return s.do("POST", "/v1/replies", `{"effect_id": "`+id.String()+`/`+step+`/action", `+rest+`}`)
	}
	if r := decode[api.Redriven](t, give("reserve-stock", `"outcome": "retry", "code": "busy", "attempt": 1, "retry_after_ms": 5000`), stdhttp.StatusOK); r.Outcome != "applied" {
		t.Errorf("retry: %+v", r)
	}
	if st := s.saga(id).Steps[0]; st.Error == nil || st.Error.Code != "busy" {
		t.Errorf("the step is %+v", st)
	}
	if r := decode[api.Redriven](t, give("reserve-stock", `"outcome": "succeeded", "result": {"id": "r-1"}`), stdhttp.StatusOK); r.Outcome != "applied" {
		t.Errorf("succeeded: %+v", r)
	}
	if st := s.saga(id).Steps[0]; st.Status != api.StepStatusSucceeded || string(st.Result) != `{"id":"r-1"}` {
		t.Errorf("the step is %+v", st)
	}
	if r := decode[api.Redriven](t, give("reserve-stock", `"outcome": "succeeded"`), stdhttp.StatusOK); r.Outcome != "stale" || r.Reason == nil {
		t.Errorf("again: %+v", r)
	}
	p := decode[api.Problem](t, s.do("POST", "/v1/replies", `{"effect_id": "`+uuid.NewString()+`/a/action", "outcome": "succeeded"}`), stdhttp.StatusConflict)
	if p.Code != api.ProblemCodeStillDead {
		t.Errorf("no such saga: %+v", p)
	}
	if l := decode[api.DeadLetterList](t, s.do("GET", "/v1/dead-letters", ""), stdhttp.StatusOK); len(l.Items) != 0 {
		t.Errorf("a refused reply became a dead letter: %+v", l.Items)
	}
}

func badReplies() []badInput {
	const input, bad = api.ProblemCodeInputInvalid, api.ProblemCodeBadRequest
	one := func(body string, status int, code api.ProblemCode, pointers ...string) badInput {
		return badInput{name: "reply " + body, method: "POST", path: "/v1/replies", body: body, status: status, code: code, pointers: pointers}
	}
	const effect = `"effect_id": "019aa1f0-5c1e-7b62-9d0a-3f6b1c2d4e00/a/action"`
	return []badInput{
		one(`{}`, 400, bad, "#/effect_id", "#/outcome"),
		one(`{"effect_id": "a", "outcome": "succeeded"}`, 422, input, "#/effect_id"),
		one(`{`+effect+`, "outcome": "unknown"}`, 400, bad, "#/outcome"),
		one(`{`+effect+`, "outcome": "failed", "result": 1}`, 422, input, "#/result"),
		one(`{`+effect+`, "outcome": "retry", "retry_after_ms": -1}`, 400, bad, "#/retry_after_ms"),
		{name: "a letter's id", method: "GET", path: "/v1/dead-letters/reply-0", status: 400, code: bad, pointers: []string{"path:letter"}},
		{name: "a letter's number", method: "DELETE", path: "/v1/dead-letters/7", status: 400, code: bad, pointers: []string{"path:letter"}},
		{name: "a letter's source", method: "GET", path: "/v1/dead-letters?source=nats", status: 400, code: bad, pointers: []string{"query:source"}},
	}
}

package outbox

import (
	"encoding/json"

	"github.com/google/uuid"
)

// typeUndeliverable is the type of the message that tells of a dead letter.
const typeUndeliverable = "skald.undeliverable.v1"

// undeliverable is for whoever waits for the answer to a message that has become
// a dead letter: the message's header ce-replyto says who that is. It is written
// with the dead letter, or not at all, and says of the message what an answer
// would.
func undeliverable(a aside) (notice Message, wanted bool) {
	var h map[string]string
	if a.parked || json.Unmarshal(a.row.Headers, &h) != nil || h["ce-replyto"] == "" {
		return Message{}, false
	}
	headers := map[string]string{"ce-type": typeUndeliverable, "ce-source": "/relay", "content-type": "application/json"}
	for _, name := range []string{"ce-subject", "ce-effectid", "ce-attempt", "traceparent", "tracestate"} {
		if v, has := h[name]; has {
			headers[name] = v
		}
	}
	notice = Message{Key: a.row.Key, MsgID: uuid.New(), Subject: h["ce-replyto"]}
	var err error
	if notice.Headers, err = json.Marshal(headers); err != nil { // cannot be: strings
		return Message{}, false
	}
	notice.Payload, err = json.Marshal(map[string]string{"code": "undeliverable", "message": a.err.Error()})
	return notice, err == nil
}

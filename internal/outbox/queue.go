// Package outbox carries messages from a database to a broker: [Queue] adds
// them to the transaction that decided to send them, [Relay] publishes what was
// committed.
//
// It promises (P9) that no message of a rolled-back transaction leaves, that
// none leaves before its commit is durable, that every committed one is
// published at least once or kept as a dead letter, and that messages of one
// key are first published in the order in which they were committed. It knows
// nothing of sagas and nothing of the broker: that is a [Publisher].
package outbox

import (
	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
)

// Message is what a writer wants to be published.
type Message struct {
	Key     string    // messages of one key keep their order
	MsgID   uuid.UUID // the broker's duplicate detection goes by it
	Subject string
	Headers []byte // a JSON object of strings; nil: none
	Payload []byte
}

// Queue adds the insert of the messages, in their order, to a batch. It must
// be the transaction's last statement, after the rows that the messages speak
// of were changed: then the order of a key's messages is their commit order.
func Queue(b *pgx.Batch, messages []Message) {
	// WITH ORDINALITY fixes the order in which the sequence is drawn.
	const q = `
		INSERT INTO outbox (slot, key, msg_id, subject, headers, payload)
		SELECT (SELECT current_slot FROM outbox_ring), u.key, u.msg_id, u.subject, u.headers, u.payload
		FROM unnest($1::text[], $2::uuid[], $3::text[], $4::json[], $5::bytea[])
		  WITH ORDINALITY AS u (key, msg_id, subject, headers, payload, n) ORDER BY u.n`
	n := len(messages)
	// [16]byte is encoded as it is; a uuid.UUID would take the way through text.
	keys, ids, subjects := make([]string, n), make([][16]byte, n), make([]string, n)
	headers, payloads := make([]string, n), make([][]byte, n)
	for i, m := range messages {
		keys[i], ids[i], subjects[i], headers[i], payloads[i] = m.Key, m.MsgID, m.Subject, string(m.Headers), m.Payload
		if m.Headers == nil {
			headers[i] = "{}"
		}
		if m.Payload == nil {
			payloads[i] = []byte{}
		}
	}
	b.Queue(q, keys, ids, subjects, headers, payloads)
}

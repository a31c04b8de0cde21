DROP FUNCTION outbox_append(text, text, json, bytea);
DROP TABLE outbox_dead, outbox_lane, outbox;
DROP FUNCTION outbox_slot();
DROP TABLE outbox_ring;
DROP SEQUENCE outbox_seq;

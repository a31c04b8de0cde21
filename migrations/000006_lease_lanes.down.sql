SELECT outbox_set_lanes(1) WHERE (SELECT count(*) FROM outbox_lane) > 1; -- what came before knows no other lane
ALTER TABLE outbox DROP CONSTRAINT outbox_one_lane;
DROP FUNCTION outbox_set_lanes(int);
DROP FUNCTION outbox_lane_of(text, int);
DROP TABLE outbox_relay;
ALTER TABLE outbox_lane DROP COLUMN owner, DROP COLUMN epoch, DROP COLUMN lease_until;

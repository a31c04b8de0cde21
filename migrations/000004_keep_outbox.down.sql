DROP TABLE outbox_parked, outbox_tick;
ALTER TABLE outbox_ring DROP COLUMN switched_at;

DROP TABLE outbox_tick;
ALTER TABLE outbox_ring DROP COLUMN switched_at;

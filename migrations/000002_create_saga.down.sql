DROP TABLE orders, idempotency_key, dead_letter, saga_stale_reply, saga_timer, saga_history, saga, definition;

DROP FUNCTION saga_all_changed;
ALTER TABLE saga SET (fillfactor = 80);
ALTER TABLE saga DROP COLUMN traceparent, DROP COLUMN tracestate;

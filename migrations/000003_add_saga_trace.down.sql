ALTER TABLE saga DROP COLUMN traceparent, DROP COLUMN tracestate;

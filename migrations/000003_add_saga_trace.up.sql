-- The W3C trace context that a saga was started with: all its messages carry
-- it. Null for most sagas, which costs nothing.
ALTER TABLE saga ADD COLUMN traceparent text, ADD COLUMN tracestate text;

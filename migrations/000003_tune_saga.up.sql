-- The W3C trace context that a saga was started with: all its messages carry
-- it. Null for most sagas, which costs nothing.
ALTER TABLE saga ADD COLUMN traceparent text, ADD COLUMN tracestate text;

-- Sagas that start together stand on one page and change together: the page
-- needs room for a second version of all of them, or their updates leave it
-- and are not heap-only. With 80 only half of the updates were.
ALTER TABLE saga SET (fillfactor = 45);

-- Refuses a change of sagas of which one is not as it was read any more: all
-- of the transaction is then done again.
CREATE FUNCTION saga_all_changed(changed bigint, wanted int) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    IF changed <> wanted THEN
        RAISE EXCEPTION '% of % sagas have changed meanwhile', wanted - changed, wanted USING ERRCODE = 'serialization_failure';
    END IF;
END $$;

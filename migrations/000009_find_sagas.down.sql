DROP TABLE saga_attribute;
DROP TRIGGER saga_waits ON saga;
DROP TRIGGER saga_waits_from_the_start ON saga;
DROP FUNCTION saga_keep_waiting;
DROP FUNCTION saga_waits;
DROP TABLE saga_waiting;

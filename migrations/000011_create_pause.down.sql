DROP TABLE saga_hold, pause;

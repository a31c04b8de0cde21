DROP TABLE batch_item, batch_operation;

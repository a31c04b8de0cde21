DROP TABLE definition_name;

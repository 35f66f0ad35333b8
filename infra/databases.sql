-- What Postgres holds, made when its volume is empty.
CREATE DATABASE prefect;
CREATE DATABASE mlflow;
CREATE DATABASE mlflow_users;
CREATE DATABASE reviews;

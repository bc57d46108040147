#!/bin/sh
# Once, when the data folder is new: the owner of the schema, and a role that may read what dashboards show.
# The rights of the reader come with the migrations (board_grant).
set -eu
: "${DB_PASSWORD:?is not set}" "${DB_READER_PASSWORD:?is not set}"
psql -v ON_ERROR_STOP=1 -v owner="$DB_PASSWORD" -v reader="$DB_READER_PASSWORD" --no-psqlrc -q \
  --username "${POSTGRES_USER:-postgres}" --dbname underway <<'SQL'
CREATE EXTENSION IF NOT EXISTS timescaledb;
CREATE ROLE underway LOGIN PASSWORD :'owner';
CREATE ROLE underway_reader LOGIN PASSWORD :'reader' CONNECTION LIMIT 20;
ALTER ROLE underway_reader SET default_transaction_read_only = on;
ALTER ROLE underway_reader SET statement_timeout = '30s';
ALTER DATABASE underway OWNER TO underway;
ALTER SCHEMA public OWNER TO underway;
REVOKE ALL ON DATABASE underway FROM PUBLIC;
GRANT CONNECT ON DATABASE underway TO underway_reader;
SQL

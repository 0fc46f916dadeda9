-- Makes the roles and the databases of a deployment. `compose.yaml` runs it where PostgreSQL starts
-- on an empty volume; elsewhere run it once as the superuser, with the passwords in these files:
--
--     psql --username postgres --file docs/sql/databases.sql
--
-- `bank_owner` is the role of `migrate` and of nothing else: it owns the bank's tables. `bank` is
-- the role that the bank and the web run under: it owns nothing, so it can drop no trigger. What it
-- may do, docs/sql/bank_role.sql says.

\set ON_ERROR_STOP 1
\set bank_owner_password `cat /run/secrets/bank_owner_database_password`
\set bank_password `cat /run/secrets/bank_database_password`
\set relay_password `cat /run/secrets/relay_database_password`

CREATE ROLE bank_owner LOGIN PASSWORD :'bank_owner_password';
CREATE ROLE bank LOGIN PASSWORD :'bank_password';
CREATE ROLE relay LOGIN PASSWORD :'relay_password';

CREATE DATABASE bank OWNER bank_owner;
CREATE DATABASE relay OWNER relay;
REVOKE ALL ON DATABASE bank, relay FROM PUBLIC;
GRANT CONNECT ON DATABASE bank TO bank;

-- Takes the ownership of the bank's tables away from the role that the bank runs under.
--
-- Run it as the database's superuser, connected to the bank's database, after `migrate`:
--
--     psql --set ON_ERROR_STOP=1 --username postgres --dbname bank --file docs/sql/bank_role.sql
--
-- `bank` is the role in the bank's and the web's TELLERWIRE_DATABASE_URL, and owns the tables until
-- now. `bank_owner` is from now on the role of `migrate`, and of nothing else; give it a password
-- with ALTER ROLE. Running the file again changes nothing.

DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'bank_owner') THEN
        CREATE ROLE bank_owner LOGIN;
    END IF;
END $$;

REASSIGN OWNED BY bank TO bank_owner;
REVOKE ALL ON SCHEMA public FROM PUBLIC;
GRANT USAGE, CREATE ON SCHEMA public TO bank_owner;
GRANT USAGE ON SCHEMA public TO bank;

GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO bank;
GRANT USAGE, SELECT ON ALL SEQUENCES IN SCHEMA public TO bank;
ALTER DEFAULT PRIVILEGES FOR ROLE bank_owner IN SCHEMA public
    GRANT SELECT, INSERT, UPDATE, DELETE ON TABLES TO bank;
ALTER DEFAULT PRIVILEGES FOR ROLE bank_owner IN SCHEMA public
    GRANT USAGE, SELECT ON SEQUENCES TO bank;

-- The journal and the audit trail grow, and that is all; accounts and currencies stay.
REVOKE UPDATE, DELETE ON bank_order, bank_transfer, bank_entry, bank_auditrecord FROM bank;
REVOKE DELETE ON bank_account, bank_currency FROM bank;
REVOKE INSERT, UPDATE, DELETE ON django_migrations FROM bank;

-- Gives the role that the bank runs under what a running bank needs, and no more.
--
-- Run it after each `migrate`, as the owner of the bank's database and tables; `compose.yaml` does.
-- Running it again changes nothing:
--
--     psql --set ON_ERROR_STOP=1 --username bank_owner --dbname bank --file docs/sql/bank_role.sql
--
-- `bank` is the role in the bank's and the web's TELLERWIRE_DATABASE_URL.

SET client_min_messages = warning;
BEGIN;

-- An owner, of the database too, could drop the triggers: grants would promise what isn't so.
DO $$
BEGIN
    IF pg_has_role('bank', current_user, 'MEMBER')
        OR EXISTS (SELECT FROM pg_database
                   WHERE datname = current_database() AND datdba = 'bank'::regrole)
        OR EXISTS (SELECT FROM pg_class WHERE relowner = 'bank'::regrole)
        OR EXISTS (SELECT FROM pg_proc WHERE proowner = 'bank'::regrole)
    THEN
        RAISE EXCEPTION 'the role bank has the rights of an owner here'
            USING HINT = 'docs/operations.md, "The bank''s database role", takes them away.';
    END IF;
END $$;

REVOKE ALL ON SCHEMA public FROM PUBLIC;
GRANT USAGE ON SCHEMA public TO bank;

GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO bank;
GRANT USAGE, SELECT ON ALL SEQUENCES IN SCHEMA public TO bank;

-- The journal and the audit trail grow, and that is all; accounts, currencies and keys stay.
REVOKE UPDATE, DELETE ON bank_order, bank_transfer, bank_entry, bank_auditrecord FROM bank;
REVOKE DELETE ON bank_account, bank_currency, bank_personkey FROM bank;
REVOKE INSERT, UPDATE, DELETE ON django_migrations FROM bank;

COMMIT;

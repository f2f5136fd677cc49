-- Run by Vault as one script, inside a transaction that Vault opened. May be run again after it was cut off.
--
-- NOLOGIN is committed before sessions are ended: else a client that reconnects in between keeps its new session.
DO $$ BEGIN
  IF EXISTS (SELECT FROM pg_roles WHERE rolname = '{{name}}') THEN
    ALTER ROLE "{{name}}" NOLOGIN;
  END IF;
END $$;
COMMIT;
BEGIN;
SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '{{name}}';
DO $$ BEGIN
  IF EXISTS (SELECT FROM pg_roles WHERE rolname = '{{name}}') THEN
    -- Here and not at creation: an account that is a member of every live role makes each GRANT and DROP slower with them.
    GRANT "{{name}}" TO CURRENT_USER;
    DROP OWNED BY "{{name}}";
    DROP ROLE "{{name}}";
  END IF;
END $$;
COMMIT;
BEGIN;
-- A session that was just starting was not to be seen above. Its role is gone now, and its rights with it. It ends here,
-- or, if it is not to be seen even now, with the next revocation.
SELECT pg_terminate_backend(pid) FROM pg_stat_activity
WHERE usesysid IS NOT NULL AND usename IS NULL;

ALTER ROLE "{{name}}" NOLOGIN;
SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '{{name}}';
DROP OWNED BY "{{name}}";
DROP ROLE "{{name}}";

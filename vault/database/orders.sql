-- The sample database of the development stack and the demo.
CREATE TABLE orders (
  id integer PRIMARY KEY,
  customer text NOT NULL,
  amount_cents integer NOT NULL CHECK (amount_cents > 0),
  placed_on date NOT NULL
);
INSERT INTO orders
SELECT n, 'customer-' || (n * 37 % 90 + 10), (n * 7919 % 90000) + 1000, date '2025-01-01' + (n % 365)
FROM generate_series(1, 250) AS n;

REVOKE TEMPORARY ON DATABASE orders FROM PUBLIC;
CREATE ROLE orders_reader NOLOGIN;
GRANT SELECT ON orders TO orders_reader;

-- Vault's own account: it may make and remove roles that read orders, and end their sessions.
CREATE ROLE vault_admin WITH LOGIN CREATEROLE PASSWORD :'vault_password';
GRANT orders_reader TO vault_admin WITH ADMIN OPTION;
GRANT pg_signal_backend TO vault_admin;

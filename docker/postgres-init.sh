#!/bin/bash
# The sample database, and Vault's account in it, whose password psql reads from its file by itself.
set -euo pipefail
{
  echo '\set vault_password `cat /run/tasklease-secrets/vault`'
  cat /opt/tasklease/orders.sql
} | psql -X -q -v ON_ERROR_STOP=1 --single-transaction -U postgres -d "$POSTGRES_DB"

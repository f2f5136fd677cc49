# What the broker may do in Vault, and nothing else. No sudo, no listing, no reading of any secret.

# One orphan token a task, through a token role that bounds its policies and its life.
path "auth/token/create/tasklease-task" {
  capabilities = ["update"]
}

# Take back what was handed out.
path "auth/token/revoke-accessor" {
  capabilities = ["update"]
}
path "sys/leases/revoke" {
  capabilities = ["update"]
}

# See that it is gone; keep alive what belongs to a living task.
path "sys/leases/lookup" {
  capabilities = ["update"]
}
path "sys/leases/renew" {
  capabilities = ["update"]
}

# The broker's own log-in.
path "auth/token/renew-self" {
  capabilities = ["update"]
}

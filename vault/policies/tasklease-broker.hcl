# Written by `tasklease catalog apply`. What the broker may do, and nothing else.
path "auth/token/create/tasklease-task" {
  capabilities = ["update"]
}
path "auth/token/revoke-accessor" {
  capabilities = ["update"]
}
path "auth/token/renew-self" {
  capabilities = ["update"]
}
path "sys/leases/lookup" {
  capabilities = ["update"]
}
path "sys/leases/renew" {
  capabilities = ["update"]
}
path "sys/leases/revoke" {
  capabilities = ["update"]
}
path "auth/token/lookup-accessor" {
  capabilities = ["update"]
}
# To find what nobody answers for: names of tokens, never tokens; and leases that Vault cannot revoke.
path "auth/token/accessors" {
  capabilities = ["list", "sudo"]
}
path "sys/leases" {
  capabilities = ["read", "sudo"]
}

# Vault server of a Tasklease deployment. The names in braces are filled in by whoever starts it; README.md says what to change
# for production (TLS, integrated storage with several nodes, auto-unseal).
disable_mlock = true
ui = false
api_addr = "${VAULT_API_ADDRESS}"

storage "file" {
  path = "${VAULT_DATA}"
}

listener "tcp" {
  address = "${VAULT_LISTEN}"
  tls_disable = true # loopback, or a network of containers: never across a wire
}

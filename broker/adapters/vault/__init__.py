"""HashiCorp Vault, through hvac."""

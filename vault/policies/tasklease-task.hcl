# What a task's token may do by itself: make children. Each child belongs to one lease and holds one
# tasklease-role-* policy, which the task's token holds as well.
path "auth/token/create" {
  capabilities = ["update"]
}

"""One module a verb. Each takes ports in its constructor and domain types in its call; none knows a product."""

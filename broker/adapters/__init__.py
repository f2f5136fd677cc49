"""One package a product. Each implements ports; none imports another."""

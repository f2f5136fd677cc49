"""Generated from spire/proto/ by `make gen`; nothing here is written by hand."""

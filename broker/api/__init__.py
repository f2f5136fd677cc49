"""Generated from proto/ by `make gen`; nothing here is written by hand."""

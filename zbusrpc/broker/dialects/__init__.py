"""Dialects: whatever is spoken on the port."""

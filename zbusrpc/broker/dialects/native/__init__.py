"""The native protocol."""

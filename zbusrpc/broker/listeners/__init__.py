"""Listeners: how connections come in, and who speaks what on them."""

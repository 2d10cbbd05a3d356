"""Access: who may do what, by token or login."""

"""Assembly: a whole broker, of its parts."""

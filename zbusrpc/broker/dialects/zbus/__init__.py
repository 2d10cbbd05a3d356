"""The zbus dialect: what zbus clients of any language say, carried out by the broker's own topics and calls."""

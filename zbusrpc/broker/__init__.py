"""The broker: a pure core that decides (broker, topic, session, ...) and thin shells that act (server, gateway)."""

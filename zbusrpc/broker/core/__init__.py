"""The core: all that peers can ask of a broker, decided in one place."""

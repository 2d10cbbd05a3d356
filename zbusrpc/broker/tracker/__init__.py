"""The tracker: what a broker knows of other brokers, whom it tells, and how it tells others of itself."""

"""The service layer: what a developer touches. It meets the broker on the wire only."""

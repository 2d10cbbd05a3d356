"""The version of this package: its one spelling."""

__version__ = "0.1.0"

"""Calls: requests of services, from their callers to instances and back."""

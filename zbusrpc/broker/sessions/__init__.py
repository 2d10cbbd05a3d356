"""Sessions: who is connected, within which limits; what calls, messages and trackers have in common."""

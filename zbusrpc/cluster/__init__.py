"""Several brokers that work as one: which there are, which of them a client uses, and what it knows of each."""

"""The command line: one file for each command. Commands assemble brokers, services and clients; they decide nothing."""

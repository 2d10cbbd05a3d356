"""HTTP and WebSocket: connections, the order of answers, and who takes which request."""

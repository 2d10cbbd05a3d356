"""How bytes become messages: codecs that do no I/O, and the connections that carry them."""

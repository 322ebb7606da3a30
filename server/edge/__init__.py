"""The edge: sockets, HTTP and its limits."""

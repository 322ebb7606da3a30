"""A service reads from a replica: what a client has written, it reads with the token of its write."""

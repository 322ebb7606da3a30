"""JSON in, problems out: what any resource needs to read requests and to answer them."""

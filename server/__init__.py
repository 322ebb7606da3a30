"""The program: its command line, and `server.app`, which assembles the parts."""

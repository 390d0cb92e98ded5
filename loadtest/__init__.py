"""Load on a running server, through the client."""

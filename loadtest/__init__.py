"""Load tests and measurements of a running server, through the client."""

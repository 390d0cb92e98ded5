"""Code shared with builders and loadtest; not part of the public API."""

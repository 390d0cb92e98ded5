"""The real tritonserver on the repository, and the demo."""

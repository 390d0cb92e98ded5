"""Parts that networks are wired from: residual stages, and heads."""

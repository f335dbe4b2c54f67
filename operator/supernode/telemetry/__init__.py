"""How the operator tells about itself: a table of metrics, and structured logs. Nothing happens at import."""

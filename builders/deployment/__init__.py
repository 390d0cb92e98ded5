"""What a deployment takes from the declarations: figures, rules and dashboard."""

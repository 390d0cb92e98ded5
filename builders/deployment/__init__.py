"""Parts of a deployment that follow from declarations: figures, rules, dashboard."""

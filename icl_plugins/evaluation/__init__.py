"""What a prompt does on a target: targets, metrics, comparison of selectors, report."""

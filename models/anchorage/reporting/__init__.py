"""The evaluation report: figures, an HTML page and a summary."""

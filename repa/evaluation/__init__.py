"""From files to a report: what judges images, the measurement, the published row beside it."""

"""What a command shows besides its result: bars and lines, downloads, and the table of a report."""

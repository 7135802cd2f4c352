"""Files that are filled in place: where every part stands, and which of them are on disk."""

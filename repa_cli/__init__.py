"""The `repa` command: it parses, calls the packages and prints; it holds no logic."""

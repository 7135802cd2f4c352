"""What a run would need, found out without writing anything: sizes, memory, time."""

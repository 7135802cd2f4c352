"""Commands about data sets: preparing one, and looking at one."""

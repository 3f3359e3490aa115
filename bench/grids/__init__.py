"""What `bench.grid` runs through: strategies, constructs and objectives, one table each."""

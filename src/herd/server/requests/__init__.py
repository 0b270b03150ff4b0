"""A request in no dialect: its fields, its images, its limits, its size in memory."""

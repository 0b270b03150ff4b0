"""A request in no dialect: its fields, its images, what it may hold, what it becomes in memory."""

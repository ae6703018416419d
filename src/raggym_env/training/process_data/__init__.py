"""Process data: collected, read, and turned into training rows."""

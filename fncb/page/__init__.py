"""A recorded run as one page that works offline: what it tells, and how it is drawn."""

"""Pictures and videos as the data pipeline stores them."""

"""From anybody's raw rows to parquet: read, convert, deduplicate, decontaminate, mix, export."""

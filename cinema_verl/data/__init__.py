"""Questions over images, as the parquet files that verl's datasets read."""

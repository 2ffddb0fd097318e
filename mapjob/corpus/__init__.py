"""From Parquet shards to records: files, cells, reading, plan."""

"""From Parquet shards to records: plan, layouts, reader."""

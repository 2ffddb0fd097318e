"""mapjob: score preference corpora on Ray, rank them globally by alignment potential, publish what a model should learn from."""

__version__ = "0.1.0"

"""mapjob: score preference corpora on Ray, rank them globally by alignment potential, publish what to train on."""

__version__ = "0.1.0"

"""Run files: their keys (run.py) and how they are read (load.py)."""

"""Run files: their keys (run.py, models.py, selection.py) and how they are read (load.py)."""

from mapjob.config.load import fingerprint, load_config, parse_config, read_tree
from mapjob.config.models import Model, Models
from mapjob.config.run import Columns, Config, Execution, Input, Layout, Output, OutputFormat, Pool, Scoring
from mapjob.config.selection import WITH_ALPHA, Keep, Metric, Selection

__all__ = [
    "WITH_ALPHA",
    "Columns",
    "Config",
    "Execution",
    "Input",
    "Keep",
    "Layout",
    "Metric",
    "Model",
    "Models",
    "Output",
    "OutputFormat",
    "Pool",
    "Scoring",
    "Selection",
    "fingerprint",
    "load_config",
    "parse_config",
    "read_tree",
]

"""`mapjob generate`: responses to prompts, as a corpus of candidates."""

from mapjob.cli.options import ConfigFile, Limit, Overrides, Result
from mapjob.config.load import load_config
from mapjob.escaping import one_line
from mapjob.lab.selfplay.config import GenerateConfig


def generate(config: ConfigFile, overrides: Overrides = None, limit: Limit = None) -> Result:
    """Answer every prompt several times, with a local model or a server; the result is a corpus for `mapjob run`.

    Run the same command again after any interruption: it resumes from the units that are committed.

    Example: mapjob generate configs/generate.yaml --set generation.num_responses=8
    """
    from mapjob.lab.selfplay import generate as generation  # slow to import, and needed by few commands

    manifest = generation.generate(load_config(config, overrides or (), GenerateConfig), limit)
    prompts, counts = manifest["prompts"], manifest["counts"]
    print(f"rows read             {prompts['rows']:>12,}")
    for reason, number in prompts["left_out"].items():
        print(f"  {reason:<30}{number:>10,}")
    print(f"prompts               {prompts['prompts']:>12,}")
    for reason, number in counts["left_out"].items():
        print(f"  {reason:<30}{number:>10,}")
    print(f"{manifest['kind']:<22}{counts['rows']:>12,}")
    print(f"responses             {counts.get('responses', 0):>12,}")
    print(f"  cut at max_new_tokens       {counts.get('cut_at_max_new_tokens', 0):>12,}")
    print(f"tokens                {counts.get('tokens', 0):>12,}")
    print(f"{manifest['kind']}: {one_line(manifest['path'])}")
    return {name: manifest[name] for name in ("kind", "path", "prompts", "counts", "spent")}

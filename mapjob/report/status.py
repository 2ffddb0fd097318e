"""Runs of an output folder told apart: by name, settings, results, age and whether they are promoted; 80 columns."""

import json
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from typing import Any

from mapjob.config.selection import Selection
from mapjob.escaping import WIDTH, one_line
from mapjob.store.run_folder import Manifest, describe_loss

ALWAYS = ("metric", "alpha", "keep")  # keys of a selection that are always shown
LONGEST = 30  # characters of a value


def describe(manifest: Manifest, promoted: str | None) -> dict[str, Any]:
    """What tells a run from others, as plain JSON values. promoted: id of the promoted run."""
    config, counts = manifest["config"], manifest["counts"]
    selection = config["selection"]
    defaults = Selection().model_dump(mode="json")
    changed = {key: value for key, value in selection.items() if key not in ALWAYS and value != defaults.get(key)}
    return {
        "run_id": manifest["run_id"],
        "name": manifest.get("name"),
        "note": manifest.get("note"),
        "finished_at": manifest["finished_at"],
        "promoted": manifest["run_id"] == promoted,
        "metric": selection["metric"],
        "alpha": selection["alpha"],
        "keep": {kind: size for kind, size in selection["keep"].items() if size is not None},
        "selection": changed,  # the other keys that are not at their default
        "policy": config["models"]["policy"]["path"],
        "output_format": config["output_format"],
        **{name: counts[name] for name in ("rows", "ranked", "selected")},
        "contradicted": share_contradicted(manifest),
        "checks": manifest.get("checks", []),
        "loss": describe_loss(manifest),
    }


def share_contradicted(manifest: Manifest) -> float:
    """Of the ranked pairs, also in a manifest without measures."""
    counts = manifest["counts"]
    return manifest.get("measures", {}).get("contradicted", counts["label_disagreements"] / max(1, counts["ranked"]))


def status_lines(run: dict[str, Any], now: datetime | None = None) -> Iterator[str]:
    """Two or three lines of a run, see `describe`, and one for each thing that is wrong with it."""
    since = age(datetime.fromisoformat(run["finished_at"]), now)
    state = f"{since:>9}  {'promoted' if run['promoted'] else '':<8}"
    head = f"{run['run_id']}  {run['name'] or ''}"
    yield f"{_fit(head, WIDTH - len(state) - 1)} {state}".rstrip()
    policy = run["policy"].rstrip("/").rpartition("/")[2]
    settings = [f"alpha {run['alpha']:g}", *(f"keep {kind} {_short(size)}" for kind, size in run["keep"].items())]
    settings += [f"{key} {_short(value)}" for key, value in run["selection"].items()]
    settings += [run["output_format"], f"policy {_short(policy)}"]
    results = [f"{run['selected']:,} of {run['rows']:,} rows", f"{run['contradicted']:.1%} contradicted"]
    yield from _wrap([*settings, *results])
    if run["note"]:
        yield _fit(f"  note: {run['note']}", WIDTH).rstrip()
    yield from (_fit(f"  check failed: {check['why']}", WIDTH).rstrip() for check in run["checks"])
    if run["loss"]:
        yield f"  {run['loss']}"


def _wrap(parts: Iterable[str]) -> Iterator[str]:
    """Lines of whole parts."""
    line = ""
    for part in parts:
        if line and len(line) + len(part) + 4 > WIDTH:
            yield f"  {line},"
            line = ""
        line += f", {part}" if line else part
    yield f"  {line}"


def _short(value: object) -> str:
    return _fit(value if isinstance(value, str) else json.dumps(value), LONGEST).rstrip()


def _fit(words: str, width: int) -> str:
    """In one line of just so many characters."""
    line = one_line(words)
    return f"{line[: width - 1]}…" if len(line) > width else f"{line:<{width}}"


def age(then: datetime, now: datetime | None = None) -> str:
    """How long ago, in the largest unit that is there twice."""
    seconds = max(0, int(((now or datetime.now(UTC)) - then).total_seconds()))
    for unit, size in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds // size} {unit} ago"
    return f"{seconds} s ago"

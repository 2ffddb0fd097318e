"""A run's numbers as Ray's own metrics, for Prometheus and the board in cluster/grafana.json."""

from ray.util.metrics import Counter

from mapjob.pipeline.stages import Receipt


class Counters:
    """mapjob_units, mapjob_rows; mapjob_tokens and mapjob_model_seconds by scorer; mapjob_errors by reason."""

    def __init__(self) -> None:
        self._units = Counter("mapjob_units", "Units that are committed.")
        self._rows = Counter("mapjob_rows", "Rows of these units.")
        self._tokens = Counter("mapjob_tokens", "Tokens that went through a model.", ("scorer",))
        self._model_s = Counter("mapjob_model_seconds", "Seconds that actors spent in a model.", ("scorer",))
        self._errors = Counter("mapjob_errors", "Rows that are not scored.", ("reason",))

    def add(self, receipt: Receipt) -> None:
        self._units.inc()
        self._rows.inc(receipt.num_rows)
        for name, tokens in receipt.tokens.items():
            if tokens:
                self._tokens.inc(tokens, {"scorer": name})
        for name, seconds in receipt.model_s.items():
            if seconds:
                self._model_s.inc(seconds, {"scorer": name})
        for reason, number in list(receipt.reasons.values())[-1].items() if receipt.reasons else ():
            self._errors.inc(number, {"reason": reason})

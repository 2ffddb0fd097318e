"""Runs where Argilla's and Label Studio's packages are installed: loads what was written for them, answers as a person
does, and exports. Prints the paths of the exports. Arguments: tool, file or folder, answers by pair_id (JSON), folder.
"""

import json
import sys
from pathlib import Path
from unittest.mock import MagicMock
from uuid import uuid4


def answer_in_argilla(folder: Path, told: dict[str, str], exports: Path) -> list[Path]:
    import argilla as rg
    from argilla._models import DatasetModel
    from argilla.records._io import JsonIO

    rg.Argilla._default_client = MagicMock()  # no server; what Dataset.from_disk does with files needs none
    settings = rg.Settings.from_json(folder / ".argilla/settings.json")
    settings.validate()
    model = DatasetModel(**json.loads((folder / ".argilla/dataset.json").read_text()))
    dataset = rg.Dataset(name=model.name, settings=settings)
    assert settings.questions["verdict"].labels == ["keep", "swap", "drop"]
    answered = []
    records = JsonIO._records_from_json(folder / "records.json")
    assert len(dataset.records._ingest_records(records)) == len(records)
    for record in records:
        response = rg.Response(question_name="verdict", value=told[record.id], user_id=uuid4(), status="submitted")
        texts, more = dict(record.fields), dict(record.metadata)
        assert set(texts) == {"prompt", "chosen", "rejected"}
        answered.append(rg.Record(id=record.id, fields=texts, metadata=more, responses=[response]))
    JsonIO.to_json(answered, exports / "records.json")
    return [exports, exports / "records.json"]


def answer_in_label_studio(file: Path, told: dict[str, str], exports: Path) -> list[Path]:
    from label_studio_sdk.converter import Converter
    from label_studio_sdk.label_interface import LabelInterface

    config = file.with_suffix(".xml").read_text()
    interface = LabelInterface(config)
    interface.validate()
    tasks = json.loads(file.read_text())
    for number, task in enumerate(tasks):
        assert interface.validate_task(task)
        value = {"choices": [told[task["data"]["pair_id"]]]}
        result = [{"id": str(number), "from_name": "verdict", "to_name": "prompt", "type": "choices", "value": value}]
        annotation = {"id": number, "completed_by": 1, "was_cancelled": False, "result": result}
        assert interface.validate_annotation(annotation)
        task |= {"id": number, "annotations": [annotation], "predictions": []}
    (exports / "tasks.json").write_text(json.dumps(tasks))
    converter = Converter(config, project_dir=str(exports))
    for form in ("JSON_MIN", "CSV"):
        converter.convert(str(exports / "tasks.json"), str(exports / form), form, is_dir=False)
    return [exports / "tasks.json", exports / "JSON_MIN" / "result.json", exports / "CSV" / "result.csv"]


if __name__ == "__main__":
    tool, path, told, exports = sys.argv[1:]
    Path(exports).mkdir()
    answer = {"argilla": answer_in_argilla, "label-studio": answer_in_label_studio}[tool]
    print(*answer(Path(path), json.loads(Path(told).read_text()), Path(exports)), sep="\n")

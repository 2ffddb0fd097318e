"""`mapjob validate` whole: what is trained on is what is selected, what is finished stays, and the table adds up."""

from mapjob.validation.report import as_text
from mapjob.validation.validate import validate
from tests.validation.conftest import small


def test_it(tmp_path):
    result = validate(small(tmp_path), say=print)
    print(as_text(result))

"""Recognition of a remote corpus reads footers and first pages: some MB, however large the corpus is."""

import random
from collections import Counter

import pyarrow as pa
import pyarrow.parquet as pq
import s3fs

from mapjob.config.input import Input
from mapjob.corpus.plan import make_plan
from mapjob.store.remote import filesystem

NUM_FILES, NUM_ROWS = 6, 6_000


def test_a_plan_of_a_remote_corpus_reads_some_megabytes(bucket, tmp_path, monkeypatch):
    dice = random.Random(0)
    texts = ["".join(dice.choices("abcdefghij klmnop", k=900)) for _ in range(300)]
    fs, folder = filesystem(bucket)
    size = 0
    for number in range(NUM_FILES):
        columns = {
            name: [f"{name} {i} {dice.choice(texts)}" for i in range(NUM_ROWS)] for name in ("chosen", "rejected")
        }
        columns |= {"question": [f"question {i}" for i in range(NUM_ROWS)], "system": [""] * NUM_ROWS}
        columns["photo"] = [dice.randbytes(500) for _ in range(NUM_ROWS)]
        pq.write_table(pa.table(columns), tmp_path / "part.parquet", compression="none")
        size += (tmp_path / "part.parquet").stat().st_size
        fs.put(str(tmp_path / "part.parquet"), f"{folder}/corpus/part-{number}.parquet")
    requests, num_bytes = Counter(), 0
    call = s3fs.S3FileSystem._call_s3

    async def count(self, method, *arguments, **options):
        nonlocal num_bytes
        requests[method] += 1
        if "Range" in options:
            first, last = options["Range"].removeprefix("bytes=").split("-")
            num_bytes += int(last) - int(first) + 1
        return await call(self, method, *arguments, **options)

    monkeypatch.setattr(s3fs.S3FileSystem, "_call_s3", count)
    plan = make_plan(Input(path=f"{bucket}/corpus"), True, 2_000)
    print(f"{size:,} bytes in {NUM_FILES} files: {num_bytes:,} bytes read in {dict(requests)}")
    assert plan.num_rows == NUM_FILES * NUM_ROWS
    assert plan.corpus.reading.prompt == ("system", "question")
    assert size > 80_000_000
    assert num_bytes < 16_000_000
    assert requests["get_object"] < 12 * NUM_FILES

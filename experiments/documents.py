"""Speed and memory of preparing documents, beside `datasets` and `tokenizers` used plainly, on text that this makes.

    python -m experiments.documents --megabytes 1000
    python -m experiments.documents --megabytes 50

The same documents as JSON lines and as parquet, of a Zipf law's words, are encoded by the same BPE tokenizer, by two
processes each: by this project into token files, and by `load_dataset`, `map(num_proc=2)` and a loop that writes the
ids. Prints a JSON line for each: seconds, megabytes of text a second, peak memory of all processes together. The number
of tokens must be the same.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from experiments.preparation import PeakMemory, make_words
from tbptt.data.config import Level
from tbptt.data.documents.config import DocumentsConfig
from tbptt.data.prepare import open_corpus

TYPES = 100_000
BATCH = 2000  # documents that are made at once


def make_documents(megabytes: int, seed: int) -> Iterator[list[str]]:
    """Batches of documents of 20 to 2000 words in lines of about 25."""
    words, random = make_words(TYPES), np.random.default_rng(seed)
    weights = 1 / (np.arange(1, TYPES + 1) + 2.7) ** 1.07
    cumulative = np.cumsum(weights / weights.sum())
    left = megabytes * 1_000_000
    while left > 0:
        lengths = np.exp(random.uniform(np.log(20), np.log(2000), BATCH)).astype(int)
        drawn = words[np.searchsorted(cumulative, random.random(lengths.sum())).clip(max=TYPES - 1)]
        batch = [
            "\n".join(" ".join(document[i : i + 25]) for i in range(0, len(document), 25))
            for document in np.split(drawn, np.cumsum(lengths)[:-1])
        ]
        left -= sum(map(len, batch))
        yield batch


def write_corpus(folder: Path, megabytes: int) -> None:
    """train, valid and test as JSON lines and as parquet; and a tokenizer trained on a part of train."""
    for number, (split, size) in enumerate((("train", megabytes), ("valid", 1), ("test", 1))):
        for kind in ("jsonl", "parquet"):
            (folder / kind).mkdir(exist_ok=True)
        schema = pa.schema({"id": pa.int64(), "text": pa.large_string()})
        with (
            open(folder / f"jsonl/{split}.jsonl", "w", encoding="utf-8") as lines,
            parquet.ParquetWriter(folder / f"parquet/{split}.parquet", schema) as table,
        ):
            for batch in make_documents(size, number):
                lines.writelines(json.dumps({"id": i, "text": text}) + "\n" for i, text in enumerate(batch))
                table.write_table(pa.table({"id": range(len(batch)), "text": batch}, schema=schema))
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=32_768,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=["<|endoftext|>"],
        show_progress=False,
    )
    tokenizer.train_from_iterator(make_documents(min(20, megabytes), seed=0), trainer)
    tokenizer.save(str(folder / "tokenizer.json"))


def ours(folder: Path, kind: str, workers: int) -> int:
    """Prepare the corpus. Returns the number of tokens."""
    vocabulary, cache = str(folder / "tokenizer.json"), str(folder / f"cache {kind}")
    settings = {"path": str(folder / kind), "cache": cache, "vocabulary": vocabulary, "workers": workers}
    corpus = open_corpus(DocumentsConfig("documents", level=Level.bpe, **settings))
    return sum(len(split) for split in corpus.splits.values())


def plain(folder: Path, kind: str, workers: int) -> int:
    """The usual way: map the tokenizer over the data set, then write the ids of each split to one file."""
    import datasets

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    start = tokenizer.token_to_id("<|endoftext|>")
    files = {split: str(next((folder / kind).glob(f"{split}.*"))) for split in ("train", "valid", "test")}

    def encode(batch: dict[str, list[str]]) -> dict[str, list]:
        encoded = tokenizer.encode_batch_fast(batch["text"], add_special_tokens=False)
        return {"ids": [[start, *document.ids] for document in encoded]}

    builder = "json" if kind == "jsonl" else "parquet"
    data_set = datasets.load_dataset(builder, data_files=files, cache_dir=str(folder / f"datasets {kind}"))
    total = 0
    for split, rows in data_set.items():
        mapped = rows.map(encode, batched=True, num_proc=workers, remove_columns=rows.column_names)
        with open(folder / f"plain {kind} {split}.bin", "wb") as file:
            for batch in mapped.with_format("arrow").iter(1000):
                ids = batch["ids"].combine_chunks().flatten().to_numpy().astype("<u2")
                file.write(ids.tobytes())
                total += len(ids)
    return total


def measure(way: str, folder: Path, kind: str, workers: int) -> None:
    """Of this process: print a JSON line."""
    megabytes = sum(path.stat().st_size for path in (folder / kind).iterdir()) / 1e6
    memory, started = PeakMemory(), time.perf_counter()
    memory.start()
    tokens = {"ours": ours, "plain": plain}[way](folder, kind, workers)
    seconds = time.perf_counter() - started
    memory.over.set()
    line = {"way": way, "kind": kind, "file_megabytes": round(megabytes), "tokens": tokens, "workers": workers}
    rates = {"tokens_per_second": round(tokens / seconds), "peak_MiB": round(memory.peak)}
    print(json.dumps(line | {"seconds": round(seconds, 2)} | rates), flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, default=1000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--only", nargs=3, metavar=("WAY", "FOLDER", "KIND"), help="one measurement, in this process")
    arguments = parser.parse_args()
    if arguments.only:
        measure(arguments.only[0], Path(arguments.only[1]), arguments.only[2], arguments.workers)
        sys.exit()
    with tempfile.TemporaryDirectory() as place:
        write_corpus(Path(place), arguments.megabytes)
        quiet = os.environ | {"HF_HOME": f"{place}/hf", "HF_DATASETS_DISABLE_PROGRESS_BARS": "1"}
        for kind in ("jsonl", "parquet"):
            for way in ("ours", "plain"):
                words = ["--only", way, place, kind, "--workers", str(arguments.workers)]
                subprocess.run([sys.executable, "-m", "experiments.documents", *words], check=True, env=quiet)

"""Atomic downloads: resumed after an interruption, checked by size and SHA-256, renamed at the end."""

from __future__ import annotations

import hashlib
import logging
import os
import time
from pathlib import Path

import requests
from tqdm import tqdm

from tbptt.data.shared import own_path
from tbptt.errors import UserError, full_disk_reported

log = logging.getLogger(__name__)
BLOCK = 1 << 20
ADVICE = "set data.url to another mirror, or data.path to a folder that contains the files"
TIMEOUT = (10, 60)  # seconds to connect, and to wait for a block


def download(
    url: str, target: Path, size: int | None = None, sha256: str | None = None, tries: int = 5, pause: float = 1.0
) -> None:
    """Download `url` to `target`. An interrupted download is kept in TARGET.part and resumed, also by a later run.

    UserError if the server cannot be reached or has no such file, the connection fails `tries` times, the disk is full,
    or size or SHA-256 differ; `target` does not exist then.
    """
    log.info("Downloading %s", url)
    part = own_path(target.with_name(f"{target.name}.part"))
    target.parent.mkdir(parents=True, exist_ok=True)
    for attempt in range(1, tries + 1):
        try:
            with full_disk_reported(target.parent, "data.cache"):
                total = _resume(url, part)
            if total is None or _size(part) == total:
                break
            problem = "the connection was closed"
        except requests.HTTPError as error:
            answer = "" if error.response is None else f"{error.response.status_code} {error.response.reason}"
            if error.response is None or error.response.status_code < 500:
                raise UserError(f"{url} answers {answer}: {ADVICE}") from error
            problem = f"the server answered {answer}"
        except (
            requests.exceptions.MissingSchema,
            requests.exceptions.InvalidURL,
            requests.exceptions.InvalidSchema,
        ) as error:
            raise UserError(f"data.url={url} is not a valid address: it must begin with http:// or https://") from error
        except requests.exceptions.ChunkedEncodingError:
            problem = "the connection broke"
        except requests.ConnectionError as error:
            if not _size(part):
                raise UserError(f"{url} cannot be reached (no network?): {ADVICE}") from error
            problem = "the connection broke"
        except requests.RequestException as error:
            problem = str(error)
        except UserError:
            part.unlink(missing_ok=True)
            raise
        if attempt < tries:
            log.info("%s after %s bytes, retrying (%d of %d)", problem, f"{_size(part):,}", attempt + 1, tries)
            time.sleep(pause * attempt)
    else:
        raise UserError(
            f"{url}: {problem} after {_size(part):,} bytes, {tries} times; run the same command again to resume"
        )
    _check(part, url, size, sha256)
    os.replace(part, target)


def _resume(url: str, part: Path) -> int | None:
    """Append the missing bytes to `part`. Returns the size of the whole file, None if the server does not tell it."""
    have = _size(part)
    headers = {"Range": f"bytes={have}-", "Accept-Encoding": "identity"} if have else {"Accept-Encoding": "identity"}
    with requests.get(url, headers=headers, stream=True, timeout=TIMEOUT) as response:
        if have and response.status_code == requests.codes.requested_range_not_satisfiable:
            if response.headers.get("Content-Range") == f"bytes */{have}":
                return have  # already complete
            part.unlink()  # longer than the file: start over
            return _resume(url, part)
        response.raise_for_status()
        if response.status_code != requests.codes.partial_content:
            have = 0  # the server ignores the range and sends the whole file
        length = response.headers.get("Content-Length")
        total = have + int(length) if length else None
        bar = tqdm(desc=part.stem, total=total, initial=have, unit="B", unit_scale=True, disable=None)
        with bar, open(part, "ab" if have else "wb") as file:
            for block in response.iter_content(BLOCK):
                file.write(block)
                bar.update(len(block))
    return total


def _check(part: Path, url: str, size: int | None, sha256: str | None) -> None:
    """UserError if size or SHA-256 differ from the published ones; the file is deleted then."""
    found = _size(part)
    digest = None
    if sha256 is not None:
        with open(part, "rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    if (size is not None and found != size) or digest != sha256:
        part.unlink()
        wanted = f"{size:,} bytes" if size is not None and found != size else f"SHA-256 {sha256}"
        got = f"{found:,} bytes" if size is not None and found != size else f"SHA-256 {digest}"
        raise UserError(f"{url} differs from the published file: {got} instead of {wanted}; it was deleted")


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0

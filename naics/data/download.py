"""Fetch the official Census workbooks of a year, checked against known sha256 sums."""

import hashlib
import http.client
import urllib.parse
import urllib.request
from pathlib import Path

from naics.data.workbooks import file_name
from training_utils import InputError, replacing

CENSUS = "https://www.census.gov/naics"
TIMEOUT_SECONDS = 30
SHA256 = {  # year: kind: sums of the editions known
    2022: {
        "codes": ("be12ba41002803359f49181c9bf33a03fbd08578f4f4a4c0bbad7aadaaea0316",),
        "descriptions": ("6222c4d87dcf984970e0ff8a49862ed54b546b089d03956be3f285900cd3d66c",),
        "index": (
            "4d42c6dae281ed2ad346aba667e731d4c7ecbae3ae769955f732216a1ba33e42",
            "6506b37b9546dd9cec1f8b79e0b38b68e547a5cce5fd6f8332d35024dbd6cd63",  # later, the same entries
        ),
        "references": ("3c50c3bfa9d76862aea471cc8831fd726f0b978619d833e48c54a749d9622144",),
    },
    2017: {
        "codes": ("177cd3e97fd8e9926016a89f1e18345d37aa03422de6cc9f6afaa0e6897cc191",),
        "descriptions": ("dbf320991b1ab31e3f8475faa075bd4426dfcdcb0055c2e7c7d45ebe9a6bbb7d",),
        "index": ("f78fb892b59f9d15c7f351702b5ee5260daace9b8cdb5db0305ba00eb69759ff",),
        "references": ("27ce3b8530b46385d6512ed82d27c7ddaf9529881adb6527b4a78f3f254ef4d7",),
    },
}


def download(folder: Path, year: int = 2022, base_url: str = CENSUS) -> dict[str, str]:
    """Fetch a year's four workbooks into `folder`; returns for each file "present" or "fetched"."""
    if year not in SHA256:
        raise InputError(f"--year {year}: no checksums of that edition; choose from {sorted(SHA256)}")
    folder = Path(folder)
    names = {kind: file_name(kind, year) for kind in SHA256[year]}
    missing = [
        kind
        for kind, name in names.items()
        if not (folder / name).is_file() or not is_known((folder / name).read_bytes(), year, kind)
    ]
    for kind in missing:
        name = names[kind]
        url = f"{base_url}/{year}NAICS/{urllib.parse.quote(name)}"
        try:
            content = fetch(url)
        except (OSError, http.client.HTTPException) as error:  # no such host, refused, timed out, cut off
            files = ", ".join(f'"{names[other]}"' for other in missing)
            reason = getattr(error, "reason", None) or error
            raise InputError(
                f"{url}: not reachable ({reason}); put the official {files} into {folder}"
            ) from None
        if not is_known(content, year, kind):
            found, wanted = hashlib.sha256(content).hexdigest()[:12], SHA256[year][kind][0][:12]
            raise InputError(
                f"{url}: not the known file (sha256 {found}..., not {wanted}...), so nothing was written; "
                f"put the official one into {folder}"
            )
        folder.mkdir(parents=True, exist_ok=True)
        with replacing(folder / name) as file:
            file.write(content)
    return {name: "fetched" if kind in missing else "present" for kind, name in names.items()}


def fetch(url: str) -> bytes:
    request = urllib.request.Request(url, headers={"User-Agent": "naics-gemini"})
    with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS) as answer:
        return answer.read()


def is_known(content: bytes, year: int, kind: str) -> bool:
    return hashlib.sha256(content).hexdigest() in SHA256[year][kind]

"""Ways to damage a checkpoint, and what a reader lets pass."""

import hashlib
import json
import random
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import torch

from fncb import store
from fncb.store import DamagedCheckpoint


def a_small_tree(step: int = 3) -> dict[str, Any]:
    weight = torch.arange(20.0).reshape(4, 5) + step
    return {
        "step": step,
        "betas": (0.5, float("inf")),
        "model": {"weight": weight, "tied": weight, "turned": weight.T, "wide": weight.to(torch.complex128)},
        "optimizer": {"state": {0: {"step": torch.tensor(2.0), "none": None}}},
    }


def passes(path: Path, damages: Iterable[tuple[str, bytes]]) -> tuple[int, list[str]]:
    """How many damaged files were tried, and which of them were read, or refused without a clear word."""
    tried, wrong = 0, []
    for what, data in damages:
        path.write_bytes(data)
        tried += 1
        try:
            store.read(path)
        except DamagedCheckpoint as error:
            if str(path) not in str(error):
                wrong.append(f"{what}: {error}")
        except Exception as error:
            wrong.append(f"{what}: {error!r}")
        else:
            wrong.append(f"{what}: was read")
    return tried, wrong


def flips(whole: bytes) -> Iterator[tuple[str, bytes]]:
    data = bytearray(whole)
    for i in range(8 * len(whole)):
        data[i // 8] ^= 1 << i % 8
        yield f"bit {i}", bytes(data)
        data[i // 8] ^= 1 << i % 8


def splices(whole: bytes, other: bytes, n: int) -> Iterator[tuple[str, bytes]]:
    """Ranges swapped, moved, doubled, left out, zeroed, or taken from another checkpoint."""
    rng = random.Random(0)
    while n:
        i, j, k, m = sorted(rng.randrange(len(whole) + 1) for _ in range(4))
        a, b, c, d, e = whole[:i], whole[i:j], whole[j:k], whole[k:m], whole[m:]
        sector = 512 * rng.randrange(len(whole) // 512 + 1)
        kind, data = rng.choice(
            [
                ("swap", a + d + c + b + e),
                ("move", a + c + b + d + e),
                ("double", a + b + b + c + d + e),
                ("leave out", a + c + d + e),
                ("zero", a + bytes(len(b)) + c + d + e),
                ("zero a sector", (whole[:sector] + bytes(512) + whole[sector + 512 :])[: len(whole)]),
                ("take from another", whole[:i] + other[i:j] + whole[j:]),
                ("go on with another", whole[:i] + other[i:]),
                ("noise", a + rng.randbytes(len(b)) + c + d + e),
            ]
        )
        if data not in (whole, other):
            n -= 1
            yield f"{kind} {i} {j} {k} {m}", data


HOSTILE: list[Any] = [
    *(
        None,
        True,
        0,
        -1,
        1,
        2,
        7,
        2**31,
        2**62,
        2**63,
        2**64,
        -(2**63),
        10**400,
        0.5,
        1e308,
        "",
        "F32",
        "U8",
        "F8_E4M3",
    ),
    *("nan", "_dynamo", "nn", "qint8", "complex128", "float32", "$tensor", "../x", "\0", "a" * 10_000, [], {}, [[]]),
    *(
        [0],
        [-1],
        [2**30],
        [2**36],
        [2**40, 2**40],
        [0, 2**62, 2**62],
        [1] * 5000,
        list(range(5)),
        {"$tensor": 1},
        {"$tuple": 3},
    ),
    *({"$dict": [[1, 2, 3]]}, {"$dict": [[[], 2]]}, {"$float": []}, {"$tensor": "model.weight"}, {"a": {"b": [0]}}),
]


def mutations(whole: bytes, n: int) -> Iterator[tuple[str, bytes]]:
    """Files that were changed on purpose: their checksums are right, what they say is not."""
    rng = random.Random(0)
    length = int.from_bytes(whole[:8], "little")
    header, body = json.loads(whole[8 : 8 + length]), whole[8 + length :]
    for i in range(n):
        new = json.loads(json.dumps(header))
        within = rng.choice(["header", "tree", "layouts"])
        if within == "header":
            told = change(new, rng)
        else:
            part = [json.loads(new["__metadata__"][within])]
            told = change(part, rng)
            text = json.dumps(part[0] if part else None)
            deep = rng.choice([50, 101, 1000, 30_000])
            text = text if rng.random() < 0.9 else "[" * deep + text + "]" * deep
            new["__metadata__"][within] = text
        data = body if rng.random() < 0.8 else rng.choice([b"", body[:-1], body + b"\0", body * 2])
        if isinstance(new.get("__metadata__"), dict) and rng.random() < 0.95:
            new["__metadata__"]["sha256_body"] = hashlib.sha256(data).hexdigest()
        yield f"{i}: {within} {told}", sealed(new, data)


def change(root: Any, rng: random.Random) -> str:
    """Changes one to three places of nested lists and dicts."""
    told = []
    for _ in range(rng.choice([1, 1, 2, 3])):
        places = [(box, key) for box in boxes(root) for key in (box if isinstance(box, dict) else range(len(box)))]
        if not places:
            break
        box, key = rng.choice(places)
        kind = rng.choice(["hostile", "other", "remove", "rename"])
        told.append(f"{kind} {key!r}")
        if kind == "hostile":
            box[key] = json.loads(json.dumps(rng.choice(HOSTILE)))
        elif kind == "other":
            other, place = rng.choice(places)
            box[key] = json.loads(json.dumps(other[place]))
        elif kind == "remove":
            del box[key]
        elif isinstance(box, dict):
            box[str(rng.choice([*box, "$tuple", "$dict", "$tensor", "$float", "other"]))] = box.pop(key)
    return ", ".join(told)


def boxes(value: Any) -> Iterator[Any]:
    if isinstance(value, dict | list):
        yield value
        for inner in value.values() if isinstance(value, dict) else value:
            yield from boxes(inner)


def sealed(header: Any, body: bytes) -> bytes:
    """A file of this header, with its checksum made right again where there is one."""
    if isinstance(header.get("__metadata__"), dict) and "sha256" in header["__metadata__"]:
        header["__metadata__"]["sha256"] = "0" * 64
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode(errors="replace")
    raw = len(text).to_bytes(8, "little") + text
    mark = b'"sha256":"' + b"0" * 64
    return raw.replace(mark, mark[:10] + hashlib.sha256(raw).hexdigest().encode(), 1) + body


def surprises(
    path: Path, files: Iterable[tuple[str, bytes]], room: Callable[[], Any]
) -> tuple[dict[str, int], list[str]]:
    """How many of the files were read, refused or of a newer format, and what was raised beside that."""
    ends, wrong = {"read": 0, "refused": 0, "newer": 0}, []
    for what, data in files:
        path.write_bytes(data)
        for use in (store.read, store.read_header, store.verify):
            try:
                with room():
                    use(path)
                end = "read"
            except DamagedCheckpoint:
                end = "refused"
            except ValueError as error:
                end = "newer"
                if "must be of format" not in str(error):
                    wrong.append(f"{use.__name__}, {what}: {error!r}")
            except BaseException as error:
                wrong.append(f"{use.__name__}, {what}: {error!r}"[:500])
                end = "refused"
            ends[end] += use is store.read
    return ends, wrong

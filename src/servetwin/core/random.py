"""Random streams: independent generators that are found by name, never by the order of use."""

from __future__ import annotations

import hashlib

import numpy as np


def stream(seed: int, *names: str | int) -> np.random.Generator:
    """Return the generator of one named stream.

    Parameters
    ----------
    seed
        The scenario's seed.
    names
        What the stream is for, for example ``("workload", "arrivals")``. Equal seed and names give equal draws;
        different names give independent streams, so that one more draw in one place changes nothing elsewhere.
    """
    digest = hashlib.sha256("/".join(str(name) for name in names).encode()).digest()
    words = np.frombuffer(digest, dtype="<u4").tolist()
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed & (2**64 - 1), *words])))

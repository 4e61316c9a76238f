"""How work is started on a device: classes of launch overhead, each with its figures and their source."""

from __future__ import annotations

from dataclasses import dataclass

from servetwin.core.errors import unknown_name


@dataclass(frozen=True, slots=True)
class LaunchClass:
    """What it costs to start an operator, however small it is.

    Attributes
    ----------
    eager_us
        Between the starts of two operators that the host launches one by one.
    replay_us
        Between the end of one operator and the start of the next where the whole step was recorded or compiled before
        (CUDA and HIP graphs, XLA programs), so that the host launches it once.
    source
        Where the two figures come from.
    """

    name: str
    eager_us: float
    replay_us: float
    source: str


DEFAULT_LAUNCH_CLASS = "cuda_graph"

_ESTIMATE = "no published figure; an estimate until `servetwin profile device` has run on one"

LAUNCH_CLASSES: dict[str, LaunchClass] = {
    entry.name: entry
    for entry in (
        LaunchClass(
            "cuda_graph",
            5.0,
            1.0,
            "4 to 6 us of host per launch: susun-blog.com, pegainfer (3); in a graph: NVIDIA's blog 'Getting Started "
            "with CUDA Graphs' (2019): kernels of 2.9 us take 3.4 us each when replayed, rounded up for a tail",
        ),
        LaunchClass("hip_graph", 8.0, 2.0, f"AMD GPUs with HIP graphs: {_ESTIMATE}"),
        LaunchClass("xla", 2.0, 0.5, f"TPUs run one compiled program per step: {_ESTIMATE}"),
        LaunchClass("hpu_graph", 10.0, 1.5, f"Gaudi with HPU graphs: {_ESTIMATE}"),
        LaunchClass("acl_graph", 10.0, 2.0, f"Ascend with ACL graphs: {_ESTIMATE}"),
        LaunchClass("level_zero", 10.0, 3.0, f"Intel GPUs with command lists: {_ESTIMATE}"),
        LaunchClass("host", 5.0, 5.0, f"a CPU calls operators and wakes its threads: {_ESTIMATE}"),
    )
}


def launch_class(name: str, *, where: str | None = None) -> LaunchClass:
    """Return the launch class called ``name``.

    Raises
    ------
    InputError
        If there is none; it names the nearest match and what exists.
    """
    if name not in LAUNCH_CLASSES:
        raise unknown_name("launch class", name, LAUNCH_CLASSES, where=where)
    return LAUNCH_CLASSES[name]

"""A small deployment of LLMServingSim to import: a cluster file, a workload and a folder of profiles."""

from __future__ import annotations

import copy
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from servetwin.scenario.importers.llmservingsim import LssFlags, LssSource, import_scenario

CLUSTER: dict[str, Any] = {
    "num_nodes": 1,
    "link_bw": 16,
    "link_latency": 20000,
    "nodes": [
        {
            "num_instances": 1,
            "cpu_mem": {"mem_size": 512, "mem_bw": 256, "mem_latency": 0},
            "instances": [
                {
                    "model_name": "meta-llama/Llama-3.1-8B",
                    "hardware": "RTXPRO6000",
                    "npu_mem": {"mem_size": 96, "mem_bw": 1597, "mem_latency": 0},
                    "num_npus": 1,
                    "tp_size": 1,
                    "pd_type": None,
                }
            ],
        }
    ],
}


def cluster_with(*instances: dict[str, Any], **top: Any) -> dict[str, Any]:
    """Return a cluster of instances that differ from the usual one by the keys given (None takes one out)."""
    data = copy.deepcopy(CLUSTER) | top
    usual = data["nodes"][0]["instances"][0]
    changed = [{**usual, **changes} for changes in instances or ({},)]
    keep_null = ("pd_type",)
    data["nodes"][0]["instances"] = [
        {key: value for key, value in item.items() if value is not None or key in keep_null} for item in changed
    ]
    data["nodes"][0]["num_instances"] = len(changed)
    return data


LEGACY = {"num_npus": None, "tp_size": None, "npu_num": 1, "npu_group": 1}
"""Changes that turn the usual instance into one of the older dialect."""


@dataclass
class Deployment:
    """Files in a temporary folder, and the import of them."""

    folder: Path

    def write(self, cluster: dict[str, Any]) -> Path:
        """Write the cluster file."""
        path = self.folder / "cluster.json"
        path.write_text(json.dumps(cluster), encoding="utf-8")
        return path

    def source(self, cluster: dict[str, Any], flags: LssFlags | None = None, **options: Any) -> LssSource:
        """Return what to import."""
        return LssSource(
            cluster=self.write(cluster),
            workload=self.folder / "workload.jsonl",
            profiles=self.folder / "profiles",
            flags=flags or LssFlags(),
            **options,
        )

    def scenario(self, cluster: dict[str, Any], flags: LssFlags | None = None, **options: Any) -> dict[str, Any]:
        """Import, and return the scenario."""
        return import_scenario(self.source(cluster, flags, **options), self.folder).data

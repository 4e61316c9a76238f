"""Encoders in front of the router: batches, hand-over, what a request's encoding adds, what does not go."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import servetwin
from servetwin.core.errors import InputError
from servetwin.hardware import load_device
from servetwin.step.encoder_time import MeasuredEncoder, VisionEncoder
from servetwin.step.vision_transformer import VISION_TRANSFORMERS
from servetwin.workload.base import Workload
from servetwin.workload.csv_file import CsvSource
from servetwin.workload.jsonl_writer import write_jsonl
from servetwin.workload.options import SyntheticOptions

ENCODERS = {
    "workers": 2,
    "max_batch_requests": 3,
    "time": {"per_batch_us": 3000.0, "per_request_us": 500.0, "per_token_us": 7.0},
    "bytes_per_token": 8192.0,
    "port": {"bandwidth_gb_per_s": 1.0, "latency_us": 25.0},
}
TIME = MeasuredEncoder(3000.0, 500.0, 7.0)


def workload(seed: int, n: int = 60) -> Workload:
    """Return requests of which half have images, in bursts."""
    rng = np.random.default_rng(seed)
    arrival_ns = np.sort(rng.integers(0, 40, n) * 10_000_000 + rng.integers(0, 3, n) * 1_000_000)
    encoder_tokens = rng.integers(1, 1500, n) * rng.integers(0, 2, n)
    prompt_tokens = encoder_tokens + rng.integers(1, 400, n)
    return Workload(arrival_ns, prompt_tokens, rng.integers(1, 30, n), encoder_tokens=encoder_tokens)


def simulate(
    requests: Workload | dict[str, Any], encoders: dict[str, Any] | None = ENCODERS, replicas: int = 2, **more: Any
) -> Any:
    """Simulate instances behind a router that counts requests."""
    pool = {
        "name": "p",
        "replicas": replicas,
        "engine": {"num_gpu_blocks_override": 400, "max_model_len": 4096, "max_num_seqs": 8},
        "step": {"model": "affine", "base_ns": 5e6, "per_token_ns": 2e4, "per_kv_token_ns": 10.0},
    }
    scenario = {"cluster": [pool], "router": "least_outstanding", "workload": requests}
    scenario |= {"encoders": encoders} if encoders else {}
    return servetwin.simulate(scenario | more, check_invariants=True)


def batches_ns(requests: Workload) -> list[tuple[int, int, int]]:
    """Return worker, start and end of each request's batch, -1 for text, worked out from the arrivals alone."""
    batches = [(-1, -1, -1)] * len(requests)
    assert requests.encoder_tokens is not None
    left = [int(row) for row in np.flatnonzero(requests.encoder_tokens)]
    free = [0, 0]
    while left:
        now = max(min(free), int(requests.arrival_ns[left[0]]))
        for worker in range(2):
            rows = [row for row in left[:3] if requests.arrival_ns[row] <= now]
            if free[worker] > now or not rows:
                continue
            left = left[len(rows) :]
            free[worker] = now + TIME.batch_ns([int(requests.encoder_tokens[row]) for row in rows])
            for row in rows:
                batches[row] = worker, now, free[worker]
    return batches


@settings(max_examples=15)
@given(seed=st.integers(0, 10_000))
def test_requests_are_served_as_if_they_arrived_with_their_embeddings(seed: int) -> None:
    """Batches are those of the rules; of one instance, requests that arrive when embeddings land end alike."""
    requests = workload(seed)
    outcome = simulate(requests, replicas=1).outcome
    log = outcome.encoding
    assert list(zip(log.worker, log.start_ns, log.end_ns, strict=True)) == batches_ns(requests)
    came = np.maximum(requests.arrival_ns, log.landed_ns)
    order = np.lexsort((np.arange(len(came)), came))
    text = Workload(came[order], requests.prompt_tokens[order], requests.output_tokens[order])
    other = simulate(text, None, 1).outcome.requests
    assert np.asarray(outcome.requests.finish_ns)[order].tolist() == np.asarray(other.finish_ns).tolist()
    assert np.asarray(outcome.requests.arrival_ns).tolist() == requests.arrival_ns.tolist()


def test_embeddings_share_ports() -> None:
    """Of one batch all set out at once: two equal ones take twice the time; a receiving port is shared, too."""
    both = Workload(np.array([0, 0]), np.array([1000, 1000]), np.array([2, 2]), encoder_tokens=np.array([900, 900]))
    alone_s = 900 * 8192 / 1e9
    table = simulate(both, ENCODERS | {"workers": 1}, replicas=1).requests
    assert table["embedding_s"] == pytest.approx([2 * alone_s + 25e-6] * 2)
    apart = ENCODERS | {"max_batch_requests": 1}
    assert simulate(both, apart, replicas=1).requests["embedding_s"] == pytest.approx([2 * alone_s + 25e-6] * 2)
    assert simulate(both, apart, replicas=2).requests["embedding_s"] == pytest.approx([alone_s + 25e-6] * 2)
    capped = apart | {"port": ENCODERS["port"] | {"transfer_gb_per_s": 0.25}}
    assert simulate(both, capped, replicas=1).requests["embedding_s"] == pytest.approx([4 * alone_s + 25e-6] * 2)


def test_embeddings_and_kv_share_the_ports_of_instances() -> None:
    """Where prefill and decode are apart there is one network; a lone transfer still takes its closed form."""
    one = Workload(np.array([0]), np.array([1000]), np.array([2]), encoder_tokens=np.array([900]))
    step = {"model": "affine", "base_ns": 5e6}
    engine = {"num_gpu_blocks_override": 400, "max_model_len": 4096}
    cluster = [{"name": role, "role": role, "engine": engine, "step": step} for role in ("prefill", "decode")]
    port = {"bandwidth_gb_per_s": 2.0, "latency_us": 8.0}
    result = simulate(one, cluster=cluster, router="round_robin", disaggregation={"port": port})
    assert result.requests["embedding_s"][0] == pytest.approx(900 * 8192 / 1e9 + 25e-6)
    moved = {link.name: link.moved_bytes.sum() for link in result.outcome.links}
    assert len(moved) == len(result.outcome.links) == 8
    assert {name for name, num_bytes in moved.items() if num_bytes} == {"encoder-0->fabric", "fabric->prefill-0"}
    assert moved["fabric->prefill-0"] == pytest.approx(900 * 8192)


def test_routers_count_requests_whose_embeddings_travel() -> None:
    """A batch of three does not go to one instance, though none of them has come there when the others are routed."""
    three = Workload(np.zeros(3, int), np.full(3, 1000), np.full(3, 2), encoder_tokens=np.full(3, 900))
    assert sorted(simulate(three, ENCODERS | {"workers": 1}, replicas=3).requests["instance"]) == ["p-0", "p-1", "p-2"]


def test_one_image_takes_encoding_and_its_way() -> None:
    """Alone, a request's parts are the batch of one, its bytes over the port, and the latency."""
    one = Workload(np.array([5_000]), np.array([1100]), np.array([2]), encoder_tokens=np.array([1000]))
    table = simulate(one).requests
    assert table["encoder_queue_s"][0] == 0
    assert table["encode_s"][0] == pytest.approx(3e-3 + 0.5e-3 + 7e-3)
    assert table["embedding_s"][0] == pytest.approx(1000 * 8192 / 1e9 + 25e-6)
    assert table["queue_s"][0] == pytest.approx(table["encode_s"][0] + table["embedding_s"][0])


def test_what_encoding_takes_is_in_the_result() -> None:
    """Text requests have no such times, others' are part of their queueing; the summary has batches and use."""
    requests = workload(3)
    result = simulate(requests)
    table, summary = result.requests, result.summary["encoders"]
    images, log = requests.encoder_tokens > 0, result.outcome.encoding
    assert np.isnan(table["encode_s"][~images]).all()
    parts = table["encoder_queue_s"] + table["encode_s"] + table["embedding_s"]
    assert (parts[images] <= table["queue_s"][images] + 1e-9).all()
    assert summary["requests"] == images.sum() > summary["batches"] >= images.sum() / 3
    assert 0 < summary["busy_fraction"] < 1
    rows = result.resources
    busy_s = rows["value"][(rows["kind"] == "encoder") & (rows["metric"] == "busy_fraction")].sum()
    batches = {(start, end) for start, end in zip(log.start_ns, log.end_ns, strict=True) if start >= 0}
    assert busy_s == pytest.approx(sum(end - start for start, end in batches) / 1e9)
    assert set(table["encoder"][images]) == {"encoder-0", "encoder-1"}
    assert set(table["encoder"][~images]) == {None}
    assert "encoder_tokens" not in simulate(Workload(np.array([0]), np.array([9]), np.array([2]))).requests


def test_every_request_is_somewhere() -> None:
    """Waiting for encoders, encoded, sent: at each moment as many as the log says; all gone at the end."""
    requests = workload(5)
    slow = ENCODERS | {"workers": 1, "port": {"bandwidth_gb_per_s": 0.05}}
    result = simulate(requests, slow, output={"interval_s": 0.001})
    rows, log = result.resources, result.outcome.encoding
    images = requests.encoder_tokens > 0
    times = np.round(np.unique(rows["time_s"]) * 1e9)
    edges = [requests.arrival_ns, *(np.asarray(column) for column in (log.start_ns, log.end_ns, log.landed_ns))]
    for i, metric in enumerate(("waiting", "encoding", "sending")):
        found = rows["value"][(rows["kind"] == "encoder") & (rows["metric"] == metric)]
        expected = [int((images & (edges[i] <= t) & (edges[i + 1] > t)).sum()) for t in times]
        assert found.tolist() == expected
        assert max(expected) > 0


def test_what_limits_is_said() -> None:
    """Encoders where requests wait for them, the link where embeddings take long, else what stands behind them."""
    slow = simulate(workload(2), ENCODERS | {"workers": 1, "time": {"per_token_us": 200.0}})
    assert slow.measurements.limit.kind == "encoders"
    assert "Requests wait for the encoders, which are busy" in slow.limit
    narrow = simulate(workload(2), ENCODERS | {"port": {"bandwidth_gb_per_s": 0.05}})
    assert narrow.measurements.limit.kind == "embeddings"
    assert "the busiest link, " in narrow.limit
    prefill = {"model": "affine", "base_ns": 5e6, "per_token_ns": 3e5, "per_kv_token_ns": 10.0}
    engine = {"num_gpu_blocks_override": 400, "max_model_len": 4096, "max_num_seqs": 8}
    cluster = [{"name": "p", "engine": engine, "step": prefill}]
    behind = simulate(workload(2), cluster=cluster).measurements.limit.kind
    assert behind in ("max_num_seqs", "max_num_batched_tokens", "kv_blocks")


def test_the_report_shows_encoders(tmp_path: Path) -> None:
    """Use, queue, links and where the time goes."""
    simulate(workload(2)).write(tmp_path)
    page = (tmp_path / "report.html").read_text()
    for text in ("Encoders", "queue before the encoders", "Where a request", "Links", "queue at encoders"):
        assert text in page
    header = (tmp_path / "requests.csv").read_text().splitlines()[0]
    assert "encoder_tokens,encoder,encoder_queue_s,encode_s,embedding_s" in header


def test_a_closed_loop_goes_through_the_encoders() -> None:
    """Clients that wait for answers send their next image when the last answer came; nothing is lost."""
    load = {
        "kind": "synthetic",
        "requests": 30,
        "arrivals": {"kind": "closed_loop", "concurrency": 4},
        "prompt_tokens": 50,
        "output_tokens": 5,
        "encoder_tokens": 200,
        "encoder_share": 0.5,
    }
    result = simulate(load)
    assert result.summary["requests"]["completed"] == 30
    assert 0 < result.summary["encoders"]["requests"] < 30


def test_images_and_encoders_need_each_other() -> None:
    """Without encoders images are an error that says what to do; encoders without images have nothing to do."""
    with pytest.raises(InputError, match=r"encoders: \d+ of 60 requests have encoder_tokens, and no enc"):
        simulate(workload(1), None)
    text = Workload(np.array([0]), np.array([9]), np.array([2]))
    assert "no request has encoder_tokens: the encoders have nothing to do" in simulate(text).summary["notices"]


@given(
    name=st.sampled_from(sorted(VISION_TRANSFORMERS)),
    tokens=st.lists(st.integers(1, 4000), min_size=1, max_size=4),
    image=st.one_of(st.none(), st.integers(16, 2000)),
)
@settings(max_examples=40)
def test_a_vision_encoder_is_no_faster_than_its_device(name: str, tokens: list[int], image: int | None) -> None:
    """A batch takes at least its products at the peak rate; together never longer than one after the other."""
    sizes, device = VISION_TRANSFORMERS[name], load_device("L40S")
    encoder = VisionEncoder(sizes, device, image)
    first = (2 if sizes.gated else 1) * sizes.intermediate_size
    weights = sizes.num_hidden_layers * sizes.hidden_size * (4 * sizes.hidden_size + first + sizes.intermediate_size)
    flops = 2 * weights * sum(tokens) * sizes.patches_per_token
    together = encoder.batch_ns(tokens)
    assert together >= flops / device.peak("bf16") * 1e9
    assert together <= 1.1 * sum(encoder.batch_ns([count]) for count in tokens) + 1


def test_published_encoders_have_their_published_sizes() -> None:
    """Weights of the layers are within 10 % of what is published of each encoder, in millions."""
    published = {"clip-vit-large-patch14-336": 304, "siglip-so400m-patch14": 400, "internvit-300m": 304}
    published |= {"internvit-6b": 5540, "qwen2-vl": 632, "qwen2.5-vl": 630}
    for name, sizes in VISION_TRANSFORMERS.items():
        first = (2 if sizes.gated else 1) * sizes.intermediate_size
        layer = sizes.hidden_size * (4 * sizes.hidden_size + first + sizes.intermediate_size)
        assert sizes.num_hidden_layers * layer / 1e6 == pytest.approx(published[name], rel=0.1)


def test_files_and_generators_say_who_has_images(tmp_path: Path) -> None:
    """A CSV column, empty for none; a share of synthetic requests, whose prompts grow by their images."""
    file = tmp_path / "w.csv"
    file.write_text("arrival_s,prompt_tokens,output_tokens,encoder_tokens\n2,100,5,\n1,900,5,800\n")
    read = CsvSource(file).build(0)
    assert read.encoder_tokens is not None
    assert read.encoder_tokens.tolist() == [800, 0]
    with pytest.raises(InputError, match="no encoder_tokens"):
        write_jsonl(read, tmp_path / "w.jsonl")
    file.write_text("arrival_s,prompt_tokens,output_tokens,encoder_tokens\n1,100,5,101\n")
    with pytest.raises(InputError, match="101 encoder_tokens and 100 prompt_tokens"):
        CsvSource(file).build(0)
    options = {
        "arrivals": {"kind": "poisson", "rate_per_s": 5.0},
        "requests": 400,
        "prompt_tokens": 10,
        "output_tokens": 5,
        "encoder_tokens": 90,
        "encoder_share": 0.25,
    }
    drawn = SyntheticOptions.model_validate(options).source().build(0)
    assert drawn.encoder_tokens is not None
    assert set(zip(drawn.encoder_tokens.tolist(), drawn.prompt_tokens.tolist(), strict=True)) == {(0, 10), (90, 100)}
    assert 70 < np.count_nonzero(drawn.encoder_tokens) < 130


@pytest.mark.parametrize(
    ("encoders", "message"),
    [
        ({"workers": 1}, "give one of model .* and time"),
        ({"model": "qwen2-vl"}, "a vision encoder needs a device"),
        ({"model": "qwen2-vl", "device": "L40SS"}, r"encoders\.(device|model): "),
        ({"time": {}, "tokens_per_image": 5}, "measured times know no images"),
        ({"time": {}}, r"encoders\.bytes_per_token: .*hidden sizes here: none"),
        ({"model": "qwen3-vl", "device": "L40S"}, r"encoders\.model"),
        (ENCODERS | {"workers": 0}, r"encoders\.workers"),
        (ENCODERS | {"time": {"per_image_us": 5.0}}, r"encoders\.time\.per_image_us"),
    ],
)
def test_what_does_not_go_says_why(encoders: dict[str, Any], message: str) -> None:
    """Errors name the key and what is missing."""
    with pytest.raises(InputError, match=message):
        simulate(workload(0), encoders)


def test_a_pool_may_not_be_called_as_encoders_are() -> None:
    """Names of pools and of encoders stand in the same tables."""
    pool = {"name": "encoder", "step": {"model": "fixed", "step_ns": 5}}
    with pytest.raises(InputError, match="may not have the name 'encoder' beside encoders"):
        simulate(workload(0), cluster=[pool])

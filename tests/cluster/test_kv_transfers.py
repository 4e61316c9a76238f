"""KV over links: sizes, sharing, layer by layer."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from servetwin.cluster.kv_transfers import KvPort, KvTransfers
from servetwin.core.errors import InputError

GB = 1e9


def landing_ns(transfers: KvTransfers, number: int) -> int:
    """Return when a transfer lands if nothing else begins."""
    while (due_ns := transfers.next_event_ns()) is not None:
        if number in transfers.advance(due_ns):
            return due_ns
    raise AssertionError("it never lands")


def ports(*kv_bytes: int, layers: int = 1) -> list[KvPort]:
    """Return ports of 1 GB/s for instances with so many bytes of KV per token."""
    return [KvPort(f"i-{number}", GB, size, layers) for number, size in enumerate(kv_bytes)]


def test_a_lone_transfer_takes_latency_and_bytes_over_bandwidth() -> None:
    """And each further block's message what it costs."""
    t = KvTransfers(ports(100, 100), 50)
    assert landing_ns(t, t.start(7, 0, 1, 40)) == 7 + 50 + 4000
    t = KvTransfers(ports(100, 100), 50, message_tokens=16, message_ns=10)
    assert landing_ns(t, t.start(0, 0, 1, 40)) == 50 + 4000 + 2 * 10


@pytest.mark.parametrize(("sender", "receiver", "sent"), [(100, 200, 200), (200, 100, 200), (100, 100, 100)])
def test_replicated_heads_are_sent_as_often_as_either_side_keeps_them(sender: int, receiver: int, sent: int) -> None:
    """Resharding between degrees of tensor parallelism moves the greater of the two sides' bytes."""
    transfers = KvTransfers(ports(sender, receiver))
    assert landing_ns(transfers, transfers.start(0, 0, 1, 10)) == 10 * sent


def test_two_from_one_instance_share_its_port() -> None:
    """Each lands after the time of both; the link's record has all bytes."""
    transfers = KvTransfers(ports(100, 100, 100))
    first, second = transfers.start(0, 0, 1, 10), transfers.start(0, 0, 2, 10)
    assert [transfers.next_event_ns(), transfers.advance(2000)] == [2000, [first, second]]
    record = next(link for link in transfers.link_records() if link.name == "i-0->fabric")
    assert record.moved_bytes.sum() == pytest.approx(2000)


def test_all_transfers_share_a_narrow_fabric() -> None:
    """Between instances that have nothing else in common; alone one has all of it."""
    transfers = KvTransfers(ports(100, 100, 100, 100), 10, fabric_bytes_per_s=GB / 2)
    assert landing_ns(transfers, transfers.start(0, 0, 1, 10)) == 2010
    transfers.start(5000, 0, 1, 10), transfers.start(5000, 2, 3, 10)
    assert transfers.next_event_ns() == 9000
    record = next(link for link in transfers.link_records() if link.name == "fabric->fabric-out")
    transfers.advance(10_000)
    assert sum(transfers.link_records()[0].moved_bytes) == pytest.approx(3000)
    assert record.bandwidth_bytes_per_s == GB / 2


def test_a_cap_holds_for_each_transfer() -> None:
    """One takes no more than its cap, and two together twice as much."""
    transfers = KvTransfers(ports(100, 100), cap_bytes_per_s=GB / 4)
    transfers.start(0, 0, 1, 10), transfers.start(0, 0, 1, 10)
    assert transfers.next_event_ns() == 4000


def test_whole_prompts_do_not_overlap() -> None:
    """Prompt by prompt the time of the prefill does not count, and callers need not tell it."""
    transfers = KvTransfers(ports(100, 100))
    assert not transfers.overlaps
    assert landing_ns(transfers, transfers.start(0, 0, 1, 10, produced_ns=10**9)) == 1000


@given(st.integers(1, 500), st.integers(0, 100_000), st.integers(1, 64))
def test_layer_by_layer_at_least_the_last_layer_is_left(tokens: int, produced_ns: int, layers: int) -> None:
    """What a lone flow moves during the prefill is there; the last layer's KV never is; more time never hurts."""
    size = tokens * 100
    for produced in (produced_ns, produced_ns + 100):
        transfers = KvTransfers(ports(100, 100, layers=layers), by_layer=True)
        took = landing_ns(transfers, transfers.start(0, 0, 1, tokens, produced_ns=produced))
        assert took == max(-(-size // layers), size - produced)


@pytest.mark.parametrize(("bandwidth", "latency_ns"), [(0.0, 0), (float("nan"), 0), (GB, -1)])
def test_links_that_cannot_be_name_their_ends(bandwidth: float, latency_ns: float) -> None:
    """No bandwidth, or time that runs backwards."""
    with pytest.raises(InputError, match="i-0->fabric"):
        KvTransfers([KvPort("i-0", bandwidth, 1), KvPort("i-1", GB, 1)], latency_ns)

"""Wiring: power, cost and carbon of a scenario, and the clocks that a cap allows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from servetwin.cluster.base import EncoderPool, InstanceSpec, SimulationOutcome
from servetwin.core.errors import InputError, unknown_name
from servetwin.core.number_formats import number_format
from servetwin.energy.base import LoadedBytes, MemoryEnergy, NodePower, PoolPower, Thermal
from servetwin.energy.carbon import CarbonModel, Embodied
from servetwin.energy.cost import CostModel, Owned, PoolPrice, RequestClass
from servetwin.energy.lss import LssEnergyModel
from servetwin.energy.model import Energy, EnergyModel
from servetwin.energy.summary import energy_summary
from servetwin.llm.base import ModelArchitecture
from servetwin.scenario.attention_ffn import ffn_replica
from servetwin.scenario.cost_options import CostOptions, PriceOptions
from servetwin.scenario.device_power import check_devices, is_called, node_accelerators, node_power, power_of
from servetwin.scenario.encoder_power import encoder_power, encoder_replica
from servetwin.scenario.hardware import Replica
from servetwin.scenario.lss_power import lss_energy_model
from servetwin.scenario.power_options import PowerOptions
from servetwin.scenario.schema import Scenario
from servetwin.scenario.side_use import side_use
from servetwin.step.clocks import ClockedPlan, ClockedStepModel, ClockPolicy, Governor
from servetwin.step.offload.model import OffloadedStepModel
from servetwin.step.offload.traffic import StepLoads
from servetwin.step.pim.model import PimStepModel
from servetwin.step.pim.work import PimEnergy, PimWork
from servetwin.step.work_columns import StepWork


@dataclass(frozen=True, slots=True)
class Accounting:
    """What is reckoned of a run when it is over: energy, cost, carbon; each None where the scenario does not ask.

    And, where attention and FFN are apart, how busy both sides were.
    """

    energy: EnergyModel | LssEnergyModel | None = None
    cost: CostModel | None = None
    carbon: CarbonModel | None = None
    thermal: Mapping[str, Thermal] = field(default_factory=dict)
    notices: tuple[str, ...] = ()

    def measure(self, outcome: SimulationOutcome, interval_s: float) -> tuple[Energy | None, dict[str, Any]]:
        """Return the energy of an outcome, and what the summary says of it, of cost, carbon and both sides' use."""
        energy = self.energy.measure(outcome) if self.energy is not None else None
        summary: dict[str, Any] = {}
        if energy is not None:
            summary["energy"] = energy_summary(energy, interval_s, dict(self.thermal))
        if self.cost is not None:
            summary["cost"] = self.cost.measure(outcome, energy)
        if self.carbon is not None and energy is not None:
            summary["carbon"] = self.carbon.measure(energy)
        sides = side_use(outcome)
        if sides:
            summary["attention_ffn"] = sides
        return energy, summary


def build_accounting(
    scenario: Scenario,
    replicas: Sequence[Replica],
    instances: tuple[InstanceSpec, ...],
    encoders: EncoderPool | None = None,
) -> tuple[Accounting, tuple[InstanceSpec, ...]]:
    """Return what to reckon, and the instances with the clocks that caps allow.

    Raises
    ------
    InputError
        For a device without power figures or a price, figures that contradict each other, or carbon without power.
    """
    energy: EnergyModel | LssEnergyModel | None = None
    replicas = [*replicas, *(ffn_replica(replica) for replica in replicas if replica.part == "attention")]
    beside = encoder_replica(scenario, replicas[0].folder)
    every = [*replicas, *([beside] if beside is not None else [])]
    thermal: dict[str, Thermal] = {}
    notices: list[str] = []
    if scenario.power is not None:
        check_devices(scenario.power.devices, every, "power.devices")
        if scenario.power.lss is not None:
            if beside is not None:
                raise InputError("LLMServingSim's power model has no encoders; leave them out", where="power.lss")
            _refuse_ffn(replicas, "power.lss", "LLMServingSim's power model has one kind of device in a pool")
            energy, notices = lss_energy_model(
                scenario.power.lss, replicas, _memories(replicas, instances), _loads(replicas, instances)
            )
        else:
            energy, thermal, notices, instances = _ours(scenario.power, replicas, instances)
            if beside is not None and encoders is not None:
                power, said = encoder_power(scenario, beside, encoders)
                energy, notices = replace(energy, encoders=power), [*notices, *said]
    accounting = Accounting(
        energy, _cost(scenario, every), _carbon(scenario, every), thermal, tuple(dict.fromkeys(notices))
    )
    return accounting, instances


def _refuse_ffn(replicas: Sequence[Replica], where: str, why: str) -> None:
    for replica in replicas:
        if replica.is_ffn:
            raise InputError(f"{why}; {replica.where} has hardware.ffn", where=where)


def _ours(
    options: PowerOptions, replicas: Sequence[Replica], instances: tuple[InstanceSpec, ...]
) -> tuple[EnergyModel, dict[str, Thermal], list[str], tuple[InstanceSpec, ...]]:
    pools = [_beside_memory(_pool(options, replica), replica, instances) for replica in replicas]
    governors = {
        pool.name: _governor(options, pool, replica, instances)
        for pool, replica in zip(pools, replicas, strict=True)
        if not pool.ffn_of
    }
    if any(governors.values()):
        _refuse_ffn(replicas, "power", "caps and clocks are chosen for one kind of device in a pool")
    pools = [replace(pool, governor=governors.get(pool.name)) for pool in pools]
    thermal = {pool.name: pool.thermal for pool in pools if pool.thermal is not None}
    made: dict[str, Any] = {}
    clocked = tuple(_clocked(spec, governors[spec.pool], made) for spec in instances)
    mixed = [replica for replica in replicas if replica.pool.hardware and replica.pool.hardware.stage_devices]
    said = [f"power of {replica.pool.name}: all stages are taken to be {replica.device.name}" for replica in mixed]
    said += _memory_notices(pools, instances)
    return EnergyModel(pools, options.pue), thermal, _notices(options, pools) + said, clocked


def _pim_model(pool: str, instances: Sequence[InstanceSpec]) -> PimStepModel | None:
    """Return the step model of a pool whose instances have memory that computes."""
    timing = next((spec.timing for spec in instances if spec.pool == pool), None)
    return timing if isinstance(timing, PimStepModel) else None


def _architecture(replica: Replica) -> ModelArchitecture:
    """Return the model in the number format in which it is served."""
    if replica.dtype is None:
        return replica.model
    return replace(replica.model, dtype=number_format(replica.dtype))


def _memories(replicas: Sequence[Replica], instances: Sequence[InstanceSpec]) -> dict[str, MemoryEnergy]:
    found: dict[str, MemoryEnergy] = {}
    for replica in replicas:
        model = _pim_model(replica.pool.name, instances)
        if model is not None:
            found[replica.pool.name] = PimEnergy(
                model, _architecture(replica), replica.ranks, replica.kv_cache_dtype, model.device
            )
    return found


def _loads(replicas: Sequence[Replica], instances: Sequence[InstanceSpec]) -> dict[str, LoadedBytes]:
    """Return what steps load from elsewhere, by pool; of pipelines and lockstep groups it is not known."""
    found: dict[str, LoadedBytes] = {}
    for replica in replicas:
        timing = next((spec.timing for spec in instances if spec.pool == replica.pool.name), None)
        if isinstance(timing, OffloadedStepModel):
            found[replica.pool.name] = StepLoads(timing, replica.engine.accelerators_per_rank)
    return found


def _beside_memory(pool: PoolPower, replica: Replica, instances: Sequence[InstanceSpec]) -> PoolPower:
    """Return the pool's power with its memory that computes, and what is left to the accelerators, if it has one."""
    pool = replace(pool, loads=_loads([replica], instances).get(pool.name))
    model = _pim_model(pool.name, instances)
    if model is None:
        return pool
    work = PimWork(_architecture(replica), replica.ranks, replica.kv_cache_dtype, model)
    return replace(pool, work=work, memory=_memories([replica], instances)[pool.name])


def _memory_notices(pools: Sequence[PoolPower], instances: Sequence[InstanceSpec]) -> list[str]:
    said = []
    for pool in pools:
        model = _pim_model(pool.name, instances)
        if model is not None and model.attention.idle_w is None:
            said.append(
                f"power of {pool.name}: what its memory that computes draws at rest is not known and counts nothing; "
                "a device file may state energy.idle_w"
            )
    return said


def _notices(options: PowerOptions, pools: Sequence[PoolPower]) -> list[str]:
    said = [f"power of {pool.device.name}: {pool.device.source}" for pool in pools if pool.device.source]
    if options.node is None:
        said.append("power is that of the accelerators alone; give power.node for hosts, memory, supplies")
    return said


def _pool(options: PowerOptions, replica: Replica) -> PoolPower:
    power = power_of(options, replica)
    architecture = _architecture(replica)
    instances = replica.pool.replicas * replica.engine.data_parallel_size
    accelerators = replica.engine.accelerators_per_rank
    return PoolPower(
        name=replica.account,
        device=power,
        work=StepWork(architecture, replica.ranks, replica.kv_cache_dtype),
        accelerators=accelerators,
        instances=instances,
        node=node_power(options.node) if options.node else NodePower(),
        node_accelerators=node_accelerators(options, instances * accelerators),
        thermal=None if replica.is_ffn else _thermal(options),
        sleep_after_s=options.sleep_after_s,
        sleep_w=options.sleep_w,
        ffn_of=replica.pool.name if replica.is_ffn else "",
    )


def _thermal(options: PowerOptions) -> Thermal | None:
    given = options.thermal
    return None if given is None else Thermal(**given.model_dump())


def _governor(
    options: PowerOptions, pool: PoolPower, replica: Replica, instances: Sequence[InstanceSpec]
) -> Governor | None:
    cap_w, where = options.cap_w, "power.cap_w"
    if pool.thermal is not None and pool.thermal.sustained_w < min(cap_w or float("inf"), pool.device.limit_w):
        cap_w, where = pool.thermal.sustained_w, "power.thermal"
    policy = ClockPolicy(
        cap_w=float("inf") if cap_w is None else cap_w,
        clock=options.clock,
        decode_clock=options.clock if options.decode_clock is None else min(options.clock, options.decode_clock),
    )
    for key, value in (("clock", policy.clock), ("decode_clock", policy.decode_clock)):
        if value < pool.device.lowest_clock:
            raise InputError(
                f"{value:g} is below the lowest clock of {pool.device.name} ({pool.device.lowest_clock:g})",
                where=f"power.{key}",
            )
    if policy.changes_nothing:
        return None
    timing = next(spec.timing for spec in instances if spec.pool == pool.name)
    return Governor(pool.work, replica.device, pool.device, policy, timing, where=where)


def _clocked(spec: InstanceSpec, governor: Governor | None, made: dict[str, Any]) -> InstanceSpec:
    """Return the instance at the clocks of its pool; all instances of a pool share one step model or plan."""
    if governor is None:
        return spec
    if spec.plan is not None:
        return replace(spec, plan=made.setdefault(spec.pool, ClockedPlan(spec.plan, governor)))
    assert spec.step_model is not None
    return replace(spec, step_model=made.setdefault(spec.pool, ClockedStepModel(spec.step_model, governor)))


def _cost(scenario: Scenario, replicas: Sequence[Replica]) -> CostModel | None:
    options = scenario.cost
    if options is None:
        return None
    check_devices(options.devices, replicas, "cost.devices")
    names = {replica.pool.name for replica in replicas}
    for name in options.plans:
        if name not in names:
            raise unknown_name("pool", name, names, where=f"cost.plans.{name}")
    pools = {replica.account: _price(options, replica) for replica in replicas}
    if any(pool.pays_energy for pool in pools.values()):
        if options.energy_per_kwh is None:
            raise InputError("hardware that is bought needs the price of energy", where="cost.energy_per_kwh")
        if scenario.power is None:
            raise InputError("hardware that is bought pays for energy: give power too", where="power")
        if scenario.power.lss is not None:
            raise InputError(
                "hardware that is bought needs our own power model, not LLMServingSim's", where="power.lss"
            )
    classes = [RequestClass(**item.model_dump()) for item in options.classes]
    return CostModel(pools, options.energy_per_kwh or 0.0, options.currency, classes)


def _price(options: CostOptions, replica: Replica) -> PoolPrice:
    plan = options.plans.get(replica.pool.name, options.plan)
    name = next((name for name in options.devices if is_called(replica, name)), None)
    where = f"cost.devices.{name or replica.device_name or replica.pool.name}"
    given: PriceOptions = options.devices[name] if name else PriceOptions()
    price = getattr(given, plan)
    if price is None:
        there = ", ".join(key for key, value in given if value is not None) or "none"
        raise InputError(
            f"pool {replica.pool.name!r} is paid by plan {plan!r}; prices given: {there}", where=f"{where}.{plan}"
        )
    engine = replica.engine
    count = replica.pool.replicas * engine.data_parallel_size
    if plan == "own":
        owned = Owned(price.price, price.lifetime_years, price.used_share)
        return PoolPrice(engine.accelerators_per_rank, count, owned.per_hour, pays_energy=True)
    return PoolPrice(engine.accelerators_per_rank, count, float(price))


def _carbon(scenario: Scenario, replicas: Sequence[Replica]) -> CarbonModel | None:
    options = scenario.carbon
    if options is None:
        return None
    if scenario.power is None:
        raise InputError("emissions follow from energy: give power too", where="power")
    check_devices(options.embodied, replicas, "carbon.embodied")
    embodied = {}
    for replica in replicas:
        for name, item in options.embodied.items():
            if is_called(replica, name):
                count = replica.engine.accelerators * replica.pool.replicas
                embodied[replica.account] = Embodied(item.kg, item.lifetime_years, count)
    series = options.g_per_kwh if isinstance(options.g_per_kwh, tuple) else (options.g_per_kwh,)
    return CarbonModel(series, options.start_hour, embodied)

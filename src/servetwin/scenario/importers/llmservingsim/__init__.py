"""Importer of LLMServingSim's cluster files, workloads, profiles and run flags.

``FORMATS`` in comments is the description of that system's formats beside the reference data.
"""

from servetwin.scenario.importers.llmservingsim.build import ImportedScenario, LssSource, Mode, import_scenario
from servetwin.scenario.importers.llmservingsim.flags import LssFlags
from servetwin.scenario.importers.llmservingsim.write import to_yaml, write_scenario

__all__ = ["ImportedScenario", "LssFlags", "LssSource", "Mode", "import_scenario", "to_yaml", "write_scenario"]

"""Build hook: `pip install .`, also with `-e`, and `python -m build` generate the code of the contracts first."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class GenerateContracts(BuildHookInterface[Any]):
    """Generates the Python modules and the descriptor set before the files of a wheel are collected."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Generate the code of the contracts; hatchling calls this once for every wheel, an editable one included."""
        # The hook runs the file by its path: nothing can import the package around it before its messages exist.
        contracts = runpy.run_path(str(Path(self.root, "diptych", "contract", "generate.py")))
        contracts["build"](Path(self.root), Path(self.root, "protos"), ["diptych"])
        if version == "standard":  # An editable wheel leads to the checkout, which has them.
            build_data["force_include"][str(Path(self.root, "protos", "diptych", "v1"))] = "diptych/protos/diptych/v1"

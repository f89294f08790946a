"""Build hook: `pip install ./shop` and `python -m build shop` generate the code of the shop's contracts first."""

from __future__ import annotations

import filecmp
import runpy
import shutil
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class GenerateContracts(BuildHookInterface[Any]):
    """Generates the Python modules and the descriptor set before the files of a wheel are collected."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Generate the code of the contracts; hatchling calls this once for every wheel, an editable one included."""
        root = Path(self.root)
        # A checkout has the contracts and the compiler in the folder above, a source distribution beside this file.
        in_checkout = not (root / "generate.py").exists()
        compiler = root.parent / "diptych" / "contract" / "generate.py" if in_checkout else root / "generate.py"
        protos = root.parent / "protos" if in_checkout else root / "protos"
        contracts = runpy.run_path(str(compiler))
        with tempfile.TemporaryDirectory(prefix="diptych-shop-") as folder:
            generated = Path(folder)
            contracts["build"](generated, protos, ["shop"])
            for path in (generated / "shop").rglob("*"):
                target = root / path.relative_to(generated / "shop")
                # A running program may read the file, so the hook does not touch one that has this content.
                if path.is_file() and not (target.is_file() and filecmp.cmp(path, target, shallow=False)):
                    target.parent.mkdir(parents=True, exist_ok=True)
                    shutil.copyfile(path, target)

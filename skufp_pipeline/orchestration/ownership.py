"""One Dagster instance belongs to one data root.

Dagster keys materializations by asset alone, so that two presets in one instance would show each other's
results, and a refresh of one would wait for the other's.
"""

from pathlib import Path

import dagster as dg

from skufp_pipeline.errors import UserError
from skufp_pipeline.presets import Preset

_CURSOR = "skufp/data_root"


def claim_instance(instance: dg.DagsterInstance, preset: Preset) -> None:
    """Notes the preset's data root in the instance; raises UserError if the instance has another one.

    The instance is free again once its local data root was deleted or moved.
    """
    mine = preset.data_root if "://" in preset.data_root else str(Path(preset.data_root).resolve())
    owner = instance.daemon_cursor_storage.get_cursor_values({_CURSOR}).get(_CURSOR)
    if owner is None or ("://" not in owner and not Path(owner).exists()):
        instance.daemon_cursor_storage.set_cursor_values({_CURSOR: mine})
    elif owner != mine:
        raise UserError(
            f"$DAGSTER_HOME holds the runs of the data root {owner}, and preset {preset.name} has {mine}; "
            "Dagster would show the results of one as the other's: set DAGSTER_HOME to another folder for it"
        )

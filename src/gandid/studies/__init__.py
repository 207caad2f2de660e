"""Studies: configuration, execution, and the folder of a run."""

from gandid.studies.config import StudyConfig
from gandid.studies.folder import is_run, open_panel, read_config, write_estimates
from gandid.studies.study import Study
from gandid.studies.sweep import sweep

__all__ = ["Study", "StudyConfig", "is_run", "open_panel", "read_config", "sweep", "write_estimates"]

"""Settings of a training run: sections, all of them together, presets, and a file of one's own.

Nothing here imports torch when it is imported.
"""

from repa.training.settings.config_file import ConfigFile as ConfigFile
from repa.training.settings.config_file import read_config_file as read_config_file
from repa.training.settings.presets import PRESETS as PRESETS
from repa.training.settings.presets import settings_for as settings_for
from repa.training.settings.presets import settings_going_on as settings_going_on
from repa.training.settings.presets import settings_of as settings_of
from repa.training.settings.reporting import Reporting as Reporting
from repa.training.settings.sections import DATASETS as DATASETS
from repa.training.settings.sections import SECTIONS as SECTIONS
from repa.training.settings.sections import Weighting as Weighting
from repa.training.settings.train_config import CHANGEABLE as CHANGEABLE
from repa.training.settings.train_config import TrainConfig as TrainConfig
from repa.training.settings.train_config import settings_by_name as settings_by_name

from .making import Prepared as Prepared
from .making import prepare as prepare
from .set_folder import way_on as way_on
from .settings import PrepareConfig as PrepareConfig

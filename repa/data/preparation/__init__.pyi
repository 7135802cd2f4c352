from .making import Prepared as Prepared
from .making import prepare as prepare
from .settings import PrepareConfig as PrepareConfig

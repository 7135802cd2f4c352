from .images import SampledImages as SampledImages
from .images import images_of as images_of
from .job import GeneratedFile as GeneratedFile
from .job import generate as generate
from .settings import Protocol as Protocol
from .settings import SampleConfig as SampleConfig

from .encoder import Encoder as Encoder
from .encoder import load_encoder as load_encoder
from .encoder import open_encoders as open_encoders
from .names import EncoderName as EncoderName
from .names import parse_encoders as parse_encoders

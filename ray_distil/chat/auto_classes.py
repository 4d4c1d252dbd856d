"""The classes of Transformers that the driver uses, imported here alone.

Transformers loads its names when they are first used. If two threads do that at once, Python lets one of them see a
module that is half loaded: "cannot import name 'AutoConfig'". A second thread that imports this module waits until the
first one has all of it.
"""

from transformers import AutoConfig, AutoTokenizer, GenerationConfig

__all__ = ["AutoConfig", "AutoTokenizer", "GenerationConfig"]
